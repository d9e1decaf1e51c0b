"""Admission of requests: by API key, by the web page that asks, by the name under which this server was found.

All keys are compared in constant time.

A browser sends what any page asks it to, also to servers that only its user can reach. Where API keys are configured,
a page without one gets nothing. A server without keys is protected by two checks:

* ``Host`` must be a name that no foreign page can have: an address, a loopback or local name, the name that the server
  listens under, or one of ``allowed_hosts``. Else a page could point its own domain here (DNS rebinding).
* ``Origin`` must be the server itself or one of ``cors_origins``. Else a page could post a form, or plain text.

What is no browser sends no ``Origin``, and a ``Host`` as people typed it.
"""

from __future__ import annotations

import hmac
import re
import socket
from collections.abc import Iterable

from msgspec import Struct
from starlette.responses import Response
from starlette.types import Scope

from dynamo_tasks.errors import AuthenticationError, ForbiddenError
from dynamo_tasks.frontend.access.configured import HOSTS, ApiKey, address_of, digest_of, stored_digest
from dynamo_tasks.frontend.access.stream_tokens import owner_of, token_of
from dynamo_tasks.protocol.http.api_keys import OWNER_PREFIX
from dynamo_tasks.protocol.http.limits import KeyLimits

__all__ = ["OPEN_PATHS", "ApiKeys", "Origins", "given_key", "key_id"]

_PAGE = ("page.css", "page.js", "swagger-ui-bundle.js", "swagger-ui.css")
OPEN_PATHS = frozenset(
    {"/docs", *(f"/docs/{name}" for name in _PAGE), "/health", "/live", "/metrics", "/ping", "/ready"}
)
"""Paths that probes and scrapers read without a key; and the page of the API, which asks for one."""
_HEADERS = frozenset({b"authorization", b"api-key", b"x-api-key"})
"""``Authorization: Bearer``, and the headers of Azure's and Anthropic's clients."""
_TOKENS = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]*")
_PORTS = {b"http": b":80", b"https": b":443"}
_LOCAL = (".localhost", ".local", ".internal")
"""Top-level names that nobody can register."""
_METHODS = b"GET, POST, DELETE, HEAD, OPTIONS"
_EXPOSED = (
    b"x-request-id, request-id, x-dynamo-model, retry-after, retry-after-ms, x-should-retry, location, "
    b"x-ratelimit-limit-requests, "
    b"x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, "
    b"x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
_MAX_AGE = b"600"
_OWN = (b"", b"same-origin", b"none")
"""Askers: a program, a page of ours, the user by typing a URL (https://www.w3.org/TR/fetch-metadata)."""
_Pairs = list[tuple[bytes, bytes]]


class ApiKeys:
    """Checks the key that a request brings, whichever header has it: OpenAI's, Azure's or Anthropic's."""

    def __init__(self, keys: Iterable[ApiKey | str]):
        known = [key if isinstance(key, ApiKey) else ApiKey(key) for key in keys]
        self._digests = [stored_digest(one.key) for one in known]
        self._limits = {digest.hex(): one.limits for digest, one in zip(self._digests, known, strict=True)}

    def __repr__(self) -> str:
        return f"ApiKeys(<{len(self._digests)} keys>)"

    def __bool__(self) -> bool:
        return bool(self._digests)

    def limits(self, owner: str) -> KeyLimits:
        """The limits of the key with this hash; none where no keys are configured."""
        return self._limits.get(owner, _FREE)

    def admit(self, scope: Scope) -> tuple[str, int]:
        """Authenticate a request: by its headers, or by a stream token in its URL; as :meth:`owner`.

        Returns:
            The hash of the key, and when a token expires (0 = there is none).

        Raises:
            AuthenticationError: No key, a wrong one, or headers that name two different ones.
        """
        if not self._digests:
            return "", 0
        given = given_key(scope)
        if given is None and (token := token_of(scope)) is not None:
            return owner_of(*token, self._digests)
        return self.owner(given or b""), 0

    @property
    def digests(self) -> list[bytes]:
        """The hashes of the keys."""
        return self._digests

    def owner(self, key: bytes) -> str:
        """Find the owner of a key.

        Args:
            key: As the header has it; empty = none was sent.

        Returns:
            The hash of the key in hex; empty when no keys are configured.

        Raises:
            AuthenticationError: No key, or a wrong one.
        """
        if not self._digests:
            return ""
        if not key:
            raise AuthenticationError(
                "this server wants an API key: Authorization: Bearer <key>, api-key: <key> or x-api-key: <key>"
            )
        digest = digest_of(key)
        # A list, not a generator in any(): each comparison runs, so the time does not show which one fits.
        if not any([hmac.compare_digest(digest, known) for known in self._digests]):  # noqa: C419
            raise AuthenticationError("the API key is wrong")
        return digest.hex()


def given_key(scope: Scope) -> bytes | None:
    """The key in the headers of a request: empty where they have none that can be read; ``None`` = no such header.

    Raises:
        AuthenticationError: They name two different ones.
    """
    given = {_key_of(name, value) for name, value in scope["headers"] if name in _HEADERS}
    if len(given) > 1:
        # Another scheme of Authorization is a proxy's affair, where there is a key beside it.
        given.discard(b"")
    if len(given) > 1:
        raise AuthenticationError("the headers of the request name different API keys; send one")
    return next(iter(given), None)


def _key_of(name: bytes, value: bytes) -> bytes:
    """The key in a header; empty where there is none."""
    if name != b"authorization":
        return value.strip()
    scheme, _, key = value.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


_FREE = KeyLimits()


def key_id(owner: str) -> str:
    """The name of a key in logs: the beginning of its hash."""
    return owner[:OWNER_PREFIX]


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
        if not local and address_of(name) is None:
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
