"""API keys.

Only hashes of the keys are kept, and all of them are compared in constant time. A key can be given as its hash,
``sha256:<64 hex digits>``, so that no configuration holds it: ``printf %s "$KEY" | sha256sum``.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping

from dynamo_tasks.errors import AuthenticationError, ConfigError

__all__ = ["API_KEYS_VARIABLE", "OPEN_PATHS", "ApiKeys", "key_id", "keys_from", "stored_digest"]

API_KEYS_VARIABLE = "DYNAMO_API_KEYS"
"""Keys, separated by commas."""
OPEN_PATHS = frozenset({"/health", "/live", "/ready", "/metrics"})
"""What probes and scrapers read without a key."""


_HASHED = "sha256:"
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_ID_LENGTH = 12


def keys_from(option: str | Iterable[str] | None, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The API keys of the command line, else of ``DYNAMO_API_KEYS``.

    Args:
        option: The value or values of ``--api-key``; each may be a comma list.
        environ: The environment.

    Raises:
        ConfigError: Given, but without a key in it: serving everybody then would be a surprise.
    """
    source, values = "--api-key", [option] if isinstance(option, str) else list(option or ())
    if not values and API_KEYS_VARIABLE in environ:
        source, values = API_KEYS_VARIABLE, [environ[API_KEYS_VARIABLE]]
    keys = tuple(key.strip() for value in values for key in value.split(",") if key.strip())
    if values and not keys:
        raise ConfigError(f"{source} is set but holds no key; give one or more, separated by commas")
    return keys


class ApiKeys:
    """Checks the ``Authorization`` header."""

    def __init__(self, keys: Iterable[str]):
        self._digests = [stored_digest(key) for key in keys]

    def __repr__(self) -> str:
        return f"ApiKeys(<{len(self._digests)} keys>)"

    def owner(self, authorization: bytes | None) -> str:
        """Who sends the request.

        Args:
            authorization: The header's value, ``Bearer <key>``.

        Returns:
            The hash of the key in hex; empty when no keys are configured.

        Raises:
            AuthenticationError: No key, or a wrong one.
        """
        if not self._digests:
            return ""
        scheme, _, key = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not key:
            raise AuthenticationError("this server wants an API key: Authorization: Bearer <key>")
        digest = _digest(key.strip())
        # A list, not a generator in any(): each comparison runs, so the time does not tell which one fits.
        if not any([hmac.compare_digest(digest, known) for known in self._digests]):  # noqa: C419
            raise AuthenticationError("the API key is wrong")
        return digest.hex()


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
