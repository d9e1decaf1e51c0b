"""Checks of the web pages that may talk to this server, and of the names under which it is known.

A browser sends what any page asks it to, also to servers that only its user can reach. Where API keys are configured,
a page without one gets nothing. A server without keys is protected by two checks:

* ``Host`` must be a name that no foreign page can have: an address, a loopback or local name, the name that the server
  listens under, or one of ``allowed_hosts``. Else a page could point its own domain here (DNS rebinding).
* ``Origin`` must be the server itself or one of ``cors_origins``. Else a page could post a form, or plain text.

What is no browser sends no ``Origin``, and a ``Host`` as people typed it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec import Struct
from starlette.responses import Response
from starlette.types import Scope

from dynamo_tasks.config.host.given import variable
from dynamo_tasks.errors import ConfigError, ForbiddenError

__all__ = ["HOSTS", "PAGES", "Listed", "Origins", "is_loopback", "listed"]

_TOKENS = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]*")
_PORTS = {b"http": b":80", b"https": b":443"}
_LOCAL = (".localhost", ".local", ".internal")
"""Top-level names that nobody can register."""
_METHODS = b"GET, POST, DELETE, HEAD, OPTIONS"
_EXPOSED = (
    b"x-request-id, retry-after, retry-after-ms, x-should-retry, location, x-ratelimit-limit-requests, "
    b"x-ratelimit-remaining-requests, x-ratelimit-reset-requests"
)
_MAX_AGE = b"600"
_OWN = (b"", b"same-origin", b"none")
"""Askers: a program, a page of ours, the user by typing a URL (https://www.w3.org/TR/fetch-metadata)."""
_Pairs = list[tuple[bytes, bytes]]


class Listed(NamedTuple):
    """A list of names that a setting gives, or a variable with commas."""

    setting: str
    variable: str
    form: re.Pattern[str]
    what: str


PAGES = Listed(
    "cors_origins", "DYNAMO_CORS_ORIGINS", re.compile(r"[a-z][a-z0-9+.-]*://[^/\s,@]+|null|\*"),
    "origin, as https://app.example[:port], null or *",
)  # fmt: skip
HOSTS = Listed(
    "allowed_hosts", "DYNAMO_ALLOWED_HOSTS",
    re.compile(r"\*|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[?[0-9a-f:.]+\]?"),
    "name without a port, as api.example, *.example or *",
)  # fmt: skip


def listed(
    one: Listed, given: str | Iterable[str] | None, environ: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """The names that a setting gives, else its variable, in lower case.

    Args:
        one: :data:`PAGES` or :data:`HOSTS`.
        given: Value of the setting.
        environ: ``os.environ`` by default.

    Raises:
        ConfigError: one of them has another form.
    """
    values = [given] if isinstance(given, str) else list(given or ())
    values = values or [variable(one.variable, environ) or ""]
    found = [item.lower() for value in values for part in str(value).split(",") if (item := part.strip())]
    for item in found:
        if not one.form.fullmatch(item):
            raise ConfigError(f"{one.setting}: {item!r} is no {one.what}")
    return tuple(found)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server that listens at ``host``."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


class _Asked(Struct):
    """The headers of a request that say where it comes from and whom it means."""

    host: bytes | None = None
    origin: bytes | None = None
    site: bytes = b""
    mode: bytes = b""
    method: bytes | None = None
    headers: bytes = b""


_FIELDS = {
    b"host": "host", b"origin": "origin", b"sec-fetch-site": "site", b"sec-fetch-mode": "mode",
    b"access-control-request-method": "method", b"access-control-request-headers": "headers",
}  # fmt: skip


class Origins:
    """The check of one server.

    Args:
        origins: Pages that may use it, as :func:`listed` gives them.
        hosts: Names that it is known under, the same.
        bound: What it listens at.
        open_to_all: Whether it has no API keys.
    """

    def __init__(self, origins: Iterable[str], hosts: Iterable[str], bound: str, open_to_all: bool):
        given = [name.strip("[]").removesuffix(".") for name in hosts]
        self._origins = {origin.encode() for origin in origins}
        self._any = b"*" in self._origins
        self._open = open_to_all
        self._guarded = (open_to_all or bool(given)) and "*" not in given
        self._names = {"localhost", bound.lower(), socket.gethostname().lower(), *given}
        self._suffixes = (*_LOCAL, *(name[1:] for name in given if name.startswith("*.")))
        self._known: set[bytes] = set()

    def headers(self, scope: Scope) -> _Pairs:
        """The headers of an answer that show the browser whether the page may read it."""
        if not self._origins:
            return []
        if self._any:
            return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", _EXPOSED)]
        origin = next((value for name, value in scope["headers"] if name == b"origin"), b"")
        vary = (b"vary", b"Origin")
        if origin.lower() not in self._origins:
            return [vary]
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
            vary,
        ]

    def check(self, scope: Scope) -> Response | None:
        """Look at a request before anything else does.

        Returns:
            The answer to a preflight; ``None`` for every other request.

        Raises:
            ForbiddenError: The name is none of this server's, or the page may not use it.
        """
        asked = _Asked()
        for name, value in scope["headers"]:
            if (field := _FIELDS.get(name)) is not None:
                before = getattr(asked, field)
                # What comes twice is a list, of which nothing below is a part.
                setattr(asked, field, b"%b, %b" % (before, value) if before else value)
        if self._guarded and asked.host is not None and asked.host not in self._known:
            self._check_host(asked.host)
        if asked.origin is not None:
            return self._page(asked, scope)
        foreign = self._open and not self._any and asked.site not in _OWN
        if foreign and (asked.mode != b"navigate" or scope["method"] not in ("GET", "HEAD")):
            raise ForbiddenError("another site's page asked for this; cors_origins names those that may")
        return None

    def _page(self, asked: _Asked, scope: Scope) -> Response | None:
        origin = (asked.origin or b"").lower()
        allowed = self._any or origin in self._origins
        preflight = scope["method"] == "OPTIONS" and asked.method is not None
        if not allowed and (preflight or self._open) and not _same(origin, asked.host or b""):
            text = origin.decode("latin-1")[:200]
            raise ForbiddenError(
                f"pages of {text!r} may not use this server; cors_origins names those that may"
            )
        return _preflight(asked) if preflight and allowed else None

    def _check_host(self, host: bytes) -> None:
        name = host.decode("latin-1").lower()
        name = (
            name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0].removesuffix(".")
        )
        # One label has no owner in the public DNS: it is resolved by this machine's network, or by a container's.
        local = "." not in name or name.endswith(self._suffixes) or name in self._names
        if not local and _address(name) is None:
            text = (
                f"this server is not known as {name[:200]!r}; allowed are addresses, local names, and those that "
                f"allowed_hosts ({HOSTS.variable}) lists"
            )
            raise ForbiddenError(text)
        if len(self._known) < 1000:
            self._known.add(host)


def _same(origin: bytes, host: bytes) -> bool:
    """Return whether a page came from the server that it asks; the scheme may differ behind a TLS proxy."""
    scheme, _, where = origin.partition(b"://")
    port = _PORTS.get(scheme, b"")
    return bool(where) and where.removesuffix(port) == host.lower().removesuffix(port)


def _preflight(asked: _Asked) -> Response:
    wanted = asked.headers if _TOKENS.fullmatch(asked.headers) else b""
    headers = {
        "access-control-allow-methods": _METHODS.decode(),
        "access-control-allow-headers": wanted.decode() or "authorization, content-type, last-event-id",
        "access-control-allow-private-network": "true",
        "access-control-max-age": _MAX_AGE.decode(),
        "vary": "Access-Control-Request-Headers",
    }
    return Response(status_code=204, headers=headers)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
