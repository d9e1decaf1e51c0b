"""API keys, and the limits of each.

Only hashes of the keys are kept, and all of them are compared in constant time. A key can be given as its hash,
``sha256:<64 hex digits>``, so that no configuration holds it: ``printf %s "$KEY" | sha256sum``.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from starlette.types import Scope

from dynamo_tasks.errors import AuthenticationError, ConfigError
from dynamo_tasks.frontend.access.stream_tokens import owner_of, token_of
from dynamo_tasks.protocol.http.limits import KeyLimits

__all__ = ["API_KEYS_VARIABLE", "OPEN_PATHS", "ApiKey", "ApiKeys", "key_id", "keys_from", "stored_digest"]

API_KEYS_VARIABLE = "DYNAMO_API_KEYS"
"""Keys, separated by commas."""
OPEN_PATHS = frozenset({"/health", "/live", "/metrics", "/ping", "/ready"})
"""Paths that probes and scrapers read without a key."""

_HEADERS = frozenset({b"authorization", b"api-key", b"x-api-key"})
"""``Authorization: Bearer``, and the headers of Azure's and Anthropic's clients."""
_HASHED = "sha256:"
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_ID_LENGTH = 12


class ApiKey(msgspec.Struct, frozen=True):
    """One key and what it may.

    Attributes:
        key: The key itself, or ``sha256:`` and its hash.
        limits: Its limits.
    """

    key: str
    limits: KeyLimits = KeyLimits()

    def __repr__(self) -> str:
        return f"ApiKey(***, {self.limits})"


def keys_from(
    option: str | Iterable[str | Mapping[str, Any]] | None,
    environ: Mapping[str, str] = os.environ,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[ApiKey, ...]:
    """The API keys of the command line or the configuration, else of ``DYNAMO_API_KEYS``.

    Args:
        option: The value or values of ``--api-key`` or ``api_keys``: text, which may be a comma list, or
            ``{"key": …}`` with fields of :class:`~dynamo_tasks.protocol.http.limits.KeyLimits`.
        environ: The environment.
        defaults: Limits of keys that do not name their own.

    Raises:
        ConfigError: Given, but without a key in it: serving everybody then would be a surprise; a key twice, or a hash
            that is none; or limits that are not valid.
    """
    source, values = "--api-key", [option] if isinstance(option, str) else list(option or ())
    if option is not None and not values:
        raise ConfigError("api_keys is given but holds no key; give one or more, or leave it away")
    if not values and API_KEYS_VARIABLE in environ:
        source, values = API_KEYS_VARIABLE, [environ[API_KEYS_VARIABLE]]
    given = dict(defaults or {})
    _limits("key_limits", given)
    keys = tuple(key for value in values for key in _keys_of(value, given))
    if values and not keys:
        raise ConfigError(f"{source} is set but holds no key; give one or more, separated by commas")
    if len({stored_digest(one.key) for one in keys}) < len(keys):
        raise ConfigError(f"{source} holds a key twice")
    return keys


def _keys_of(value: str | Mapping[str, Any], defaults: dict[str, Any]) -> list[ApiKey]:
    if isinstance(value, str):
        limits = _limits("key_limits", defaults)
        return [ApiKey(key.strip(), limits) for key in value.split(",") if key.strip()]
    own = dict(value)
    key = own.pop("key", None)
    if not isinstance(key, str) or not key.strip():
        raise ConfigError("api_keys: an entry with limits needs its key: {key: …, requests_per_minute: 60}")
    return [ApiKey(key.strip(), _limits("api_keys", defaults | own))]


def _limits(where: str, given: Mapping[str, Any]) -> KeyLimits:
    try:
        return msgspec.convert(given, KeyLimits)
    except (msgspec.ValidationError, ConfigError) as exc:
        known = ", ".join(KeyLimits.__struct_fields__)
        raise ConfigError(f"{where}: {exc}; a key has the limits {known}") from None


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
        given = {_key_of(name, value) for name, value in scope["headers"] if name in _HEADERS}
        if len(given) > 1:
            given.discard(
                b""
            )  # another scheme of Authorization is a proxy's affair, where there is a key beside it
        if len(given) > 1:
            raise AuthenticationError("the headers of the request name different API keys; send one")
        if not given and (token := token_of(scope)) is not None:
            return owner_of(*token, self._digests)
        return self.owner(next(iter(given), b"")), 0

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
        digest = _digest(key)
        # A list, not a generator in any(): each comparison runs, so the time does not show which one fits.
        if not any([hmac.compare_digest(digest, known) for known in self._digests]):  # noqa: C419
            raise AuthenticationError("the API key is wrong")
        return digest.hex()


def _key_of(name: bytes, value: bytes) -> bytes:
    """The key in a header; empty where there is none."""
    if name != b"authorization":
        return value.strip()
    scheme, _, key = value.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


_FREE = KeyLimits()


def key_id(owner: str) -> str:
    """The name of a key in logs: the beginning of its hash."""
    return owner[:_ID_LENGTH]


def stored_digest(key: str) -> bytes:
    """The SHA-256 of a key that is given as text, or as its hash.

    Raises:
        ConfigError: ``sha256:`` is not followed by 64 hex digits.
    """
    prefix, found, text = key.partition(_HASHED)
    if prefix or not found:
        return _digest(key.encode())
    if not _HEX.fullmatch(text):
        raise ConfigError(f"an API key that begins with {_HASHED} must go on with 64 hex digits, its SHA-256")
    return bytes.fromhex(text)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
