"""Tokens that open one stream for a while, for readers that can send no headers, such as a browser's ``EventSource``.

A token is ``<expiry>.<beginning of the key's hash>.<HMAC>``. It is signed with the hash of the API key that asked for
it: so every frontend that takes the key takes the token, nothing is kept, and it is worth nothing once the key is
withdrawn. It opens the one request's stream, to read, with the rights of that key, until it expires. It stands in a
URL, so nothing here or elsewhere logs query strings. Its expiry is a time of the Redis server's clock, which all
frontends share.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from urllib.parse import parse_qs, unquote

from starlette.types import Scope

from dynamo_tasks.errors import AuthenticationError

__all__ = ["LONGEST", "USUAL", "beginning_of", "issue", "owner_of", "token_of"]

USUAL, LONGEST = 300, 3600
"""Seconds for which a token is good: by default, and at most."""
_PURPOSE = b"dynamo-tasks stream token 1"
_FORM = re.compile(r"([0-9]{1,12})\.([0-9a-f]{12})\.([A-Za-z0-9_-]{43})")
_STREAM = re.compile(r"/v1/requests/([^/]+)/stream")
_PREFIX = 12


def issue(owner_key: str, request_id: str, expires: int) -> str:
    """A token.

    Args:
        owner_key: Hash of the API key, in hex.
        request_id: Whose stream it opens.
        expires: When it ends, Unix seconds by the clock of Redis.
    """
    return f"{expires}.{owner_key[:_PREFIX]}.{_mac(bytes.fromhex(owner_key), request_id, expires)}"


def owner_of(token: str, request_id: str, digests: Iterable[bytes]) -> tuple[str, int]:
    """Hash of the API key that a token speaks for, and when it expires.

    Args:
        token: As it came.
        request_id: Whose stream is asked for.
        digests: Hashes of the keys that are accepted.

    Raises:
        AuthenticationError: It is none of this request.
    """
    form = _FORM.fullmatch(token)
    if form is not None:
        expires = int(form[1])
        fitting = [digest for digest in digests if digest.hex().startswith(form[2])]
        for digest in fitting:
            # In constant time: how much of a guess is right must not show.
            if hmac.compare_digest(_mac(digest, request_id, expires), form[3]):
                return digest.hex(), expires
    raise AuthenticationError("the stream token is not valid for this stream")


def beginning_of(token: str) -> str:
    """The beginning of the name of the owner that a token speaks for; empty where it has not the form of one."""
    form = _FORM.fullmatch(token)
    return form[2] if form is not None else ""


def token_of(scope: Scope) -> tuple[str, str] | None:
    """Token and request id, where a stream is asked for with a token in the URL."""
    if b"token=" not in scope["query_string"] or scope["method"] not in ("GET", "HEAD"):
        return None
    form = _STREAM.fullmatch(scope["path"])
    values = parse_qs(scope["query_string"].decode("latin-1")).get("token")
    return (values[0], unquote(form[1])) if form and values else None


def _mac(digest: bytes, request_id: str, expires: int) -> str:
    key = hmac.digest(digest, _PURPOSE, hashlib.sha256)
    mac = hmac.digest(key, f"{expires}\n{request_id}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
