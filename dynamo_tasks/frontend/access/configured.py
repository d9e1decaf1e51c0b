"""Configuration of who may come in, by settings and environment: API keys with their limits, web pages, names.

Only hashes of keys are kept. A key can be given as its hash, ``sha256:<64 hex digits>``, so that no configuration
holds it: ``printf %s "$KEY" | sha256sum``.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from dynamo_tasks.config.host.given import variable
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.http.limits import KeyLimits

__all__ = [
    "API_KEYS_VARIABLE",
    "HOSTS",
    "PAGES",
    "ApiKey",
    "Listed",
    "address_of",
    "digest_of",
    "is_loopback",
    "keys_from",
    "listed",
    "stored_digest",
]

API_KEYS_VARIABLE = "DYNAMO_API_KEYS"
"""Keys, separated by commas."""
_HASHED = "sha256:"
_HEX = re.compile(r"[0-9a-fA-F]{64}")


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


def stored_digest(key: str) -> bytes:
    """The SHA-256 of a key that is given as text, or as its hash.

    Raises:
        ConfigError: ``sha256:`` is not followed by 64 hex digits.
    """
    prefix, found, text = key.partition(_HASHED)
    if prefix or not found:
        return digest_of(key.encode())
    if not _HEX.fullmatch(text):
        raise ConfigError(f"an API key that begins with {_HASHED} must go on with 64 hex digits, its SHA-256")
    return bytes.fromhex(text)


def digest_of(key: bytes) -> bytes:
    """The SHA-256 of a key."""
    return hashlib.sha256(key).digest()


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
    address = address_of(host)
    return address is not None and address.is_loopback


def address_of(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a name is; ``None`` for a name."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
