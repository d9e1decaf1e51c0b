"""``dynamo-tasks scale``: how many instances of a component there shall be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import ConfigError, InvalidNameError
from dynamo_tasks.protocol.names import check_component
from dynamo_tasks.protocol.scale import ScaledBy
from dynamo_tasks.serve.commands.common import with_store
from dynamo_tasks.serve.console.output import plain_console
from dynamo_tasks.serve.console.scale_view import render_scales

if TYPE_CHECKING:
    from dynamo_tasks.store.redis.server import Store

__all__ = ["scale"]

_MOST = 10_000


@click.command(short_help="Show, or set, how many instances of a component there shall be.")
@click.argument("component", required=False, metavar="[NAMESPACE.COMPONENT]")
@click.argument("number", required=False, metavar="[N|auto|forget]")
@click.option("--json", "as_json", is_flag=True, help="For scripts: one JSON document.")
def scale(component: str | None, number: str | None, as_json: bool) -> None:
    """Set how many instances of NAMESPACE.COMPONENT there shall be, or show that.

    N holds until `auto`, through new starts of `serve`, and goes before the planner and `scale.idle`. `auto` lets these
    decide again; without them, each `serve` has as many as it is configured with. `forget` also takes its models out
    of the list of models that may have no instance.
    """
    if component is not None and number is not None:
        _set(component, number)
        return
    rows = with_store(lambda store: _rows(store, component))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        plain_console().print(render_scales(rows))


def _set(component: str, number: str) -> None:
    namespace, name = _split(component)
    if number == "forget":
        with_store(lambda store: _forget(store, namespace, name))
        return
    wanted = None if number == "auto" else _count(number)
    with_store(lambda store: _want(store, namespace, name, wanted))
    click.echo(f"{component}: {'as its settings say' if wanted is None else f'{wanted} wanted'}")


def _split(component: str) -> tuple[str, str]:
    namespace, _, name = component.partition(".")
    if not name:
        raise InvalidNameError(f"{component!r}: must be NAMESPACE.COMPONENT, e.g. dynamo.Worker")
    return namespace, check_component(name)


def _count(number: str) -> int:
    if not number.isascii() or not number.isdigit() or int(number) > _MOST:
        raise ConfigError(f"{number!r}: must be a number of instances, 0 to {_MOST}, `auto` or `forget`")
    return int(number)


async def _want(store: Store, namespace: str, component: str, wanted: int | None) -> None:
    from dynamo_tasks.store.scales import Scales

    await _check(store, namespace, component)
    await Scales(store, namespace).want(component, wanted, ScaledBy.HAND)


async def _forget(store: Store, namespace: str, component: str) -> None:
    from dynamo_tasks.store.scales import Scales

    await Scales(store, namespace).forget(component)


async def _check(store: Store, namespace: str, component: str) -> None:
    """Refuse a component that no ``serve`` deploys: nobody would start it."""
    rows = await _rows(store, None)
    known = [row["component"] for row in rows]
    asked = f"{namespace}.{component}"
    if asked not in known:
        hint = suggest(asked, known, label="known") if known else ""
        raise ConfigError(f"no `serve` deploys {asked}, so nobody would follow{hint}")


async def _rows(store: Store, component: str | None) -> list[dict[str, Any]]:
    from dynamo_tasks.runtime.scales import scale_rows

    rows = await scale_rows(store)
    return [row for row in rows if component in (None, row["component"])]
