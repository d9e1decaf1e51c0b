"""Addresses of Redis servers, as URLs give them.

Three forms name one server; two name a master that Sentinels watch over::

    redis://[user:password@]host[:6379][/db]        rediss://…
    unix://[user:password@]/path[?db=…]
    redis+socket://[user:password@]/path[?virtual_host=…]                            (the same, as Celery writes it)
    sentinel://[user:password@]h1[:26379];sentinel://h2;…[/db]?master_name=NAME       (as kombu and Celery write it)
    sentinel://[user:password@]h1[:26379],h2,…/NAME[/db]

Credentials are the master's; those of the Sentinels, where they differ, are the query parameters
``sentinel_username`` and ``sentinel_password``. With one of the TLS options of :mod:`dynamo_tasks.config.host.tls` in
the query, TLS is spoken with the Sentinels and with the master.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import redis

from dynamo_tasks.config.host.redis_url import check_host, check_redis_url
from dynamo_tasks.config.host.tls import SENTINEL_SCHEME, TlsOptions
from dynamo_tasks.errors import ConfigError

__all__ = ["Address", "Sentinels"]

_SENTINEL_PORT = 26379
_SOCKET_SCHEMES = ("redis+socket", "socket")
_SYNC_TIMEOUT = 1.0
"""Seconds that a Sentinel may take to accept, and to answer, where it is asked synchronously."""
_NUMBER = re.compile(r"[0-9]{1,9}")
_PARAMETERS = ("master_name", "sentinel_username", "sentinel_password")


@dataclass(frozen=True)
class Sentinels:
    """The Sentinels that know the address of the master.

    Attributes:
        master: Name of the master in the Sentinels' configuration.
        nodes: Hosts and ports of the Sentinels.
        username: Of the Sentinels themselves; none by default.
        password: The same.
    """

    master: str
    nodes: tuple[tuple[str, int], ...]
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Address:
    """The address of a Redis server, parsed from a URL; see the module."""

    url: str = field(repr=False)
    host: str = "127.0.0.1"
    port: int = 6379
    path: str = ""
    db: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: TlsOptions | None = None
    """Of the server, and of the Sentinels that know it; ``None`` without TLS."""
    sentinels: Sentinels | None = None
    """Sentinels that must be asked for host and port first; ``None`` where the URL has these."""

    @classmethod
    def parse(cls, url: str, options: Mapping[str, Any] | None = None) -> Address:
        """Parse a URL.

        Args:
            url: See the module.
            options: Celery's ``broker_transport_options``, whose ``master_name`` and ``sentinel_kwargs`` count
                where the URL does not say them.

        Raises:
            ConfigError: the URL is not one of these, or its TLS options are wrong; says which part.
        """
        check_redis_url(url)
        tls = TlsOptions.of(url)
        scheme = urlsplit(url).scheme or "no scheme"
        if scheme == SENTINEL_SCHEME:
            return _parse_sentinel(url, options or {})
        if scheme in _SOCKET_SCHEMES:
            url = _unix(url)
        try:
            found = redis.ConnectionPool.from_url(url).connection_kwargs
        except ValueError as exc:
            raise ConfigError(
                f"not a Redis URL ({scheme}); expected redis://, rediss://, unix:// or sentinel:// "
                "as in redis://127.0.0.1:6379/0"
            ) from exc
        return cls(
            url=url,
            host=found.get("host") or "127.0.0.1",
            port=int(found.get("port") or 6379),
            path=found.get("path") or "",
            db=int(found.get("db") or 0),
            username=found.get("username"),
            password=found.get("password"),
            tls=tls,
        )

    @property
    def broker_url(self) -> str:
        """The URL as kombu and Celery understand it."""
        login = _login(self.username, self.password)
        if self.path:
            return f"redis+socket://{login}{quote(self.path)}?virtual_host={self.db}"
        if self.sentinels is None:
            return self.url
        return ";".join(f"sentinel://{login}{_at(*node)}/{self.db}" for node in self.sentinels.nodes)

    @property
    def backend_url(self) -> str:
        """The URL as Celery's result backends get it: Celery takes kombu's ``redis+`` away before."""
        return self.broker_url.removeprefix("redis+")

    @property
    def broker_options(self) -> dict[str, Any]:
        """The transport options that kombu and Celery need beside :attr:`broker_url`."""
        if self.sentinels is None:
            return {}
        # redis-py asks one Sentinel after the other, each up to four times with sleeps of seconds in between: where
        # one of them went with the master's machine, that would stop the caller.
        asked = {
            "socket_connect_timeout": _SYNC_TIMEOUT,
            "socket_timeout": _SYNC_TIMEOUT,
            "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0),
            "username": self.sentinels.username,
            "password": self.sentinels.password,
            **({"ssl": True, **self.tls.settings()} if self.tls else {}),
        }
        return {"master_name": self.sentinels.master, "sentinel_kwargs": asked}

    def __str__(self) -> str:
        if self.sentinels is not None:
            nodes = ",".join(_at(*node) for node in self.sentinels.nodes)
            return f"{self.sentinels.master}/{self.db} (Sentinels {nodes})"
        return f"unix:{self.path}/{self.db}" if self.path else f"{self.host}:{self.port}/{self.db}"


def _unix(url: str) -> str:
    """Celery's URL of a Unix socket as redis-py has it."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    query["db"] = query.pop("virtual_host", "").strip("/") or "0"
    return f"unix://{parts.netloc}{parts.path}?{urlencode(query)}"


def _parse_sentinel(url: str, options: Mapping[str, Any]) -> Address:
    try:
        parts = [urlsplit(part) for part in url.split(";") if part]
    except ValueError as exc:
        raise ConfigError(f"sentinel:// URL: {exc}") from None
    query = {name: value for part in parts for name, value in parse_qsl(part.query)}
    wanted = {name: query.pop(name) for name in list(query) if name.startswith("ssl_")}
    tls = TlsOptions.given(wanted) if wanted else None
    if unknown := sorted(query.keys() - set(_PARAMETERS)):
        raise ConfigError(
            f"sentinel:// URL: unknown parameter {unknown[0]!r}; allowed are {', '.join(_PARAMETERS)}, "
            "and ssl_cert_reqs, ssl_ca_certs, … for TLS"
        )
    name, db = _name_and_db([part.path.strip("/") for part in parts])
    name = name or query.get("master_name") or options.get("master_name") or ""
    if not name:
        raise ConfigError(
            "sentinel:// URL: which master? Add ?master_name=NAME (or /NAME behind a list with commas), "
            "the name in the Sentinels' configuration"
        )
    kwargs = options.get("sentinel_kwargs") or {}
    sentinels = Sentinels(
        master=name,
        nodes=tuple(node for part in parts for node in _nodes(part.scheme, part.netloc)),
        username=query.get("sentinel_username") or kwargs.get("username"),
        password=query.get("sentinel_password") or kwargs.get("password"),
    )
    username, password = _credentials([part.netloc for part in parts])
    return Address(
        url=_canonical(sentinels, db, username, password, tls), db=db, username=username, password=password,
        tls=tls, sentinels=sentinels,
    )  # fmt: skip


def _name_and_db(paths: list[str]) -> tuple[str, int]:
    """``DB``, ``NAME`` or ``NAME/DB``: the one that a part of the URL says."""
    said = sorted(set(filter(None, paths)))
    if len(said) > 1:
        raise ConfigError(f"sentinel:// URL: {said[0]!r} and {said[1]!r} contradict each other")
    name, _, db = said[0].rpartition("/") if said else ("", "", "0")
    if not name and not _NUMBER.fullmatch(db):
        name, db = db, "0"
    if not _NUMBER.fullmatch(db) or "/" in name:
        raise ConfigError(f"sentinel:// URL: the path {said[0]!r} must be DB, NAME or NAME/DB")
    return unquote(name), int(db)


def _nodes(scheme: str, netloc: str) -> list[tuple[str, int]]:
    found = []
    for node in netloc.rpartition("@")[2].split(","):
        try:
            one = urlsplit(f"//{node}")
            host, port = one.hostname, one.port or _SENTINEL_PORT
        except ValueError:
            host, port = None, 0
        if scheme != SENTINEL_SCHEME or not host or not port:
            raise ConfigError(f"sentinel:// URL: {node!r} must be host or host:port of a Sentinel")
        check_host(host)
        found.append((host, port))
    return found


def _credentials(netlocs: list[str]) -> tuple[str | None, str | None]:
    said = [netloc.rpartition("@")[0] for netloc in netlocs if "@" in netloc]
    username, _, password = said[0].partition(":") if said else ("", "", "")
    return unquote(username) or None, unquote(password) or None


def _login(username: str | None, password: str | None) -> str:
    if not username and not password:
        return ""
    return f"{quote(username or '', safe='')}:{quote(password or '', safe='')}@"


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _canonical(
    sentinels: Sentinels, db: int, username: str | None, password: str | None, tls: TlsOptions | None
) -> str:
    """One form for all: it says everything, whatever came from options."""
    nodes = ",".join(_at(*node) for node in sentinels.nodes)
    own = {"sentinel_username": sentinels.username, "sentinel_password": sentinels.password}
    own |= tls.query() if tls else {}
    query = urlencode({name: value for name, value in own.items() if value})
    url = f"sentinel://{_login(username, password)}{nodes}/{quote(sentinels.master, safe='')}/{db}"
    return f"{url}?{query}" if query else url
