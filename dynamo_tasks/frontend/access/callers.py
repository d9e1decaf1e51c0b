"""Callers of a server: whose a request is, and what they may, by configured keys and those made at run time."""

from __future__ import annotations

from typing import NamedTuple

from starlette.types import Scope

from dynamo_tasks.errors import AuthenticationError
from dynamo_tasks.frontend.access.admission import ApiKeys, given_key
from dynamo_tasks.frontend.access.configured import digest_of
from dynamo_tasks.frontend.access.known_keys import KnownKeys
from dynamo_tasks.frontend.access.stream_tokens import beginning_of, owner_of, token_of
from dynamo_tasks.protocol.http.api_keys import is_key
from dynamo_tasks.protocol.http.limits import KeyLimits

__all__ = ["Caller", "Callers"]

_FREE = KeyLimits()
_LONGEST = 512
"""Bytes of a key: what is longer is none, and not hashed."""


class Caller(NamedTuple):
    """Whose a request is.

    Attributes:
        owner: Name of the owner in records; empty = nobody's, at an open server.
        limits: What the key may.
        token_expires: When its stream token ends, Unix seconds; 0 = it has none.
    """

    owner: str
    limits: KeyLimits
    token_expires: int = 0


_NOBODY = Caller("", _FREE)


class Callers:
    """Finds out whose a request is.

    Args:
        configured: The keys of the settings.
        known: Those made at run time; ``None`` = there are none.
        required: Whether a key is wanted although none is configured.
    """

    def __init__(self, configured: ApiKeys, known: KnownKeys | None, required: bool):
        self.required = bool(configured) or required
        """``True`` if nobody is served without a key."""
        self._configured = configured
        self._known = known

    async def admit(self, scope: Scope) -> Caller:
        """Authenticate a request.

        A server that wants no keys serves those who have none, or any other text in its place, as clients send that
        have to send something. But who has a key is its owner there, too, and one that was revoked is refused.

        Raises:
            AuthenticationError: No key where one is wanted, a wrong one, or two.
            ServerUnavailableError: It cannot be known, since Redis is away.
        """
        if self._known is None and not self.required:
            return _NOBODY
        given = given_key(scope) if self.required else _lenient(scope)
        if given is None and scope["query_string"] and (token := token_of(scope)) is not None:
            return await self._by_token(*token)
        if self._known is not None and given and is_key(given):
            key = await self._known.find(digest_of(given).hex())
            if key is not None:
                return Caller(key.owner, key.limits)
            if not self._configured:
                raise AuthenticationError("the API key is wrong, expired or revoked")
        if not self._configured and not self.required:
            return _NOBODY
        if len(given or b"") > _LONGEST:
            raise AuthenticationError("the API key is wrong")
        if not self._configured:
            return self._refused(given)
        owner = self._configured.owner(given or b"")
        return Caller(owner, self._configured.limits(owner))

    async def _by_token(self, token: str, request_id: str) -> Caller:
        digests = self._configured.digests
        key = None
        if self._known is not None and (beginning := beginning_of(token)):
            key = await self._known.of_owner(beginning)
        if key is not None:
            digests = [*digests, bytes.fromhex(key.owner)]
        if not (digests or self.required):
            return _NOBODY
        owner, expires = owner_of(token, request_id, digests)
        if key is not None and owner == key.owner:
            return Caller(owner, key.limits, min(expires, int(key.expires or expires)))
        return Caller(owner, self._configured.limits(owner), expires)

    def _refused(self, given: bytes | None) -> Caller:
        if not given:
            raise AuthenticationError(
                "this server wants an API key: Authorization: Bearer <key>, api-key: <key> or x-api-key: <key>"
            )
        raise AuthenticationError("the API key is wrong")


def _lenient(scope: Scope) -> bytes | None:
    """The key of a request to a server that wants none: what cannot be read is none."""
    try:
        return given_key(scope)
    except AuthenticationError:
        return b""
