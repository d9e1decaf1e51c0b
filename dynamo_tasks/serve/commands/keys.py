"""``dynamo-tasks keys``: API keys, made and taken back while frontends run."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.http.api_keys import RunTimeKey, made_secret, make_key
from dynamo_tasks.protocol.http.limits import KeyLimits
from dynamo_tasks.protocol.names import check_namespace
from dynamo_tasks.serve.commands.common import OneLineGroup, with_store
from dynamo_tasks.serve.console.keys_view import render_key, render_keys

if TYPE_CHECKING:
    from dynamo_tasks.store.accounts.api_keys import StoredKeys
    from dynamo_tasks.store.redis.server import Store

__all__ = ["keys", "namespace_option"]

F = TypeVar("F", bound=Callable[..., Any])
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_DEFAULT_GRACE = "24h"


def namespace_option(command: F) -> F:
    """The option ``--namespace``."""
    return click.option(
        "--namespace",
        default=lambda: os.environ.get("DYNAMO_NAMESPACE") or "dynamo",
        help="Of the Worker whose frontends take the keys; DYNAMO_NAMESPACE, else dynamo.",
    )(command)


def _limit_options(command: F) -> F:
    options = [
        click.option(
            "--expires", metavar="WHEN", help="`30d`, `12h`, or a date: 2027-01-31[T12:00]; `never`."
        ),
        click.option(
            "--model", "models", multiple=True, metavar="NAME", help="A model it may ask for; several times."
        ),
        click.option(
            "--tenant", help="Whose it is: its keys share turns, and are one line of metrics and usage."
        ),
        click.option("--weight", type=float, help="Its share of the turns; 1 by default."),
        click.option("--requests-per-minute", type=int, help="0 = no limit, as with all limits."),
        click.option("--concurrent-requests", type=int, help="That have not ended."),
        click.option("--tokens-per-minute", type=int, help="Of prompts and answers."),
        click.option("--tokens-per-day", type=int, help="Of a day of UTC."),
        click.option("--cost-per-day", type=float, help="Of a day of UTC, by the setting `prices`."),
        click.option(
            "--admin/--no-admin", default=None, help="It sees the requests and the usage of all keys."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


_as_json = click.option("--json", "as_json", is_flag=True, help="For scripts: one JSON document.")
_key = click.argument("key")


@click.group(cls=OneLineGroup, short_help="API keys at run time: create, list, rotate, revoke.")
def keys() -> None:
    """Make API keys, and take them back, while frontends run.

    Only hashes of keys are kept, in Redis: a key is shown once. KEY is the id of one, its name, or its prefix. A
    frontend whose `require_api_keys` is false, and that has no `api_keys`, goes on to serve those who have no key.
    """


@keys.command(short_help="Make a key; it is shown once.")
@click.option("--name", default="", help="What people call it.")
@_limit_options
@namespace_option
@_as_json
def create(name: str, expires: str | None, namespace: str, as_json: bool, **limits: Any) -> None:
    """Make a key, and show it: this once."""
    text, key = make_key(
        time.time(), name=name, expires=_moment(expires) or 0.0, limits=_limits(KeyLimits(), limits)
    )
    _with_keys(namespace, lambda stored: stored.add(key))
    _show_secret(text, key, as_json, f"made {key.id}")


@keys.command("list", short_help="All keys, the oldest first.")
@namespace_option
@_as_json
def list_(namespace: str, as_json: bool) -> None:
    """List all keys by their prefixes, the oldest first."""
    found = _with_keys(namespace, lambda stored: stored.all())
    rows = [key.shown(time.time()) for key in found]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        render_keys(rows)


@keys.command(short_help="One key and its limits.")
@_key
@namespace_option
@_as_json
def show(key: str, namespace: str, as_json: bool) -> None:
    """Show KEY and its limits."""
    _show(_with_keys(namespace, lambda stored: stored.find(key)), as_json)


@keys.command(short_help="Change a key's name, limits or expiry.")
@_key
@click.option("--name", help="What people call it.")
@_limit_options
@namespace_option
@_as_json
def update(
    key: str, name: str | None, expires: str | None, namespace: str, as_json: bool, **limits: Any
) -> None:
    """Change KEY; what is not given stays. `--model ''` allows all models again."""
    moment = _moment(expires)

    def changed(before: RunTimeKey) -> RunTimeKey:
        return msgspec.structs.replace(
            before,
            name=before.name if name is None else name,
            expires=before.expires if moment is None else moment,
            limits=_limits(before.limits, limits),
        )

    _show(_with_keys(namespace, lambda stored: stored.change(key, changed)), as_json)


@keys.command(short_help="Give a key a new secret; the old one works for a while.")
@_key
@click.option(
    "--grace", default=_DEFAULT_GRACE, show_default=True, help="How long the old secret works: `1h`, `0s`."
)
@namespace_option
@_as_json
def rotate(key: str, grace: str, namespace: str, as_json: bool) -> None:
    """Give KEY a new secret, shown this once. Its requests, limits and usage stay its own."""
    text, secret = made_secret()
    now = time.time()
    until = now + _seconds(grace)

    def rotated(before: RunTimeKey) -> RunTimeKey:
        if before.revoked:
            raise ConfigError(f"{before.id} is revoked; make a new key")
        old = [
            msgspec.structs.replace(one, until=min(one.until or until, until))
            for one in before.secrets
            if until > now and not (one.until and one.until <= now)
        ]
        return msgspec.structs.replace(before, secrets=(secret, *old))

    after = _with_keys(namespace, lambda stored: stored.change(key, rotated))
    _show_secret(text, after, as_json, f"{after.id}: the old secret works for {grace}")


@keys.command(short_help="Take a key back: refused at every frontend within a second.")
@_key
@namespace_option
@_as_json
def revoke(key: str, namespace: str, as_json: bool) -> None:
    """Take KEY back, for ever. Streams that run are read to their end; new requests get 401."""
    now = time.time()
    after = _with_keys(
        namespace,
        lambda stored: stored.change(key, lambda k: msgspec.structs.replace(k, revoked=k.revoked or now)),
    )
    if as_json:
        click.echo(json.dumps(after.shown(now), indent=2))
    else:
        click.echo(f"{after.id} is revoked")


@keys.command(short_help="Forget a revoked or expired key; its usage stays.")
@_key
@namespace_option
def delete(key: str, namespace: str) -> None:
    """Forget KEY, which must be revoked or expired."""

    async def forget(stored: StoredKeys) -> RunTimeKey:
        found = await stored.find(key)
        if found.state(time.time()) == "active":
            raise ConfigError(f"{found.id} works yet; revoke it first")
        return await stored.forget(found.id)

    click.echo(f"{_with_keys(namespace, forget).id} is forgotten")


def _with_keys(namespace: str, use: Callable[[StoredKeys], Any]) -> Any:
    async def work(store: Store) -> Any:
        from dynamo_tasks.store.accounts.api_keys import StoredKeys

        return await use(StoredKeys(store, namespace))

    check_namespace(namespace)
    return with_store(work)


def _limits(before: KeyLimits, given: dict[str, Any]) -> KeyLimits:
    chosen = {name: value for name, value in given.items() if value is not None and value != ()}
    if "models" in chosen:
        chosen["models"] = tuple(name for name in chosen["models"] if name)
    return msgspec.structs.replace(before, **chosen)


def _moment(text: str | None) -> float | None:
    """Unix seconds of ``30d``, a date, or ``never`` (0); ``None`` where nothing is given."""
    if text is None:
        return None
    if text == "never":
        return 0.0
    if _DURATION.fullmatch(text):
        return time.time() + _seconds(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--expires {text!r}: must be as 30d, 12h, 2027-01-31, or never") from None
    moment = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    if moment <= time.time():
        raise ConfigError(f"--expires {text!r} is in the past")
    return moment


def _seconds(text: str) -> float:
    form = _DURATION.fullmatch(text)
    if form is None:
        raise ConfigError(f"{text!r}: must be a number with s, m, h, d or w, as 24h")
    return float(int(form[1]) * _UNITS[form[2]])


def _show_secret(text: str, key: RunTimeKey, as_json: bool, said: str) -> None:
    if as_json:
        click.echo(json.dumps({"key": text, **key.shown(time.time())}, indent=2))
        return
    click.echo(text)
    click.echo(f"{said}; this is the only time that the key is shown", err=True)


def _show(key: RunTimeKey, as_json: bool) -> None:
    row = key.shown(time.time())
    if as_json:
        click.echo(json.dumps(row, indent=2))
    else:
        render_key(row)
