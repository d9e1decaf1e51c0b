"""Checks of a Redis URL, before anybody connects to it: libraries guess where they cannot read one."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from dynamo_tasks.errors import ConfigError

__all__ = ["check_host", "check_redis_url"]

_SCHEMES = ("redis", "rediss", "unix")
_DATABASE = re.compile(r"[0-9]{1,9}", re.ASCII)


def check_redis_url(url: str) -> None:
    """Check a URL of a server, ``redis://…``, ``rediss://…`` or ``unix://…``; others are checked elsewhere.

    Raises:
        ConfigError: says which part is wrong, and never the password.
    """
    if url.partition(":")[0] not in _SCHEMES:
        return
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        wrong = "port must be 1..65535" if "port" in str(exc).lower() else str(exc)
        raise ConfigError(f"the Redis URL is not valid: {wrong}") from None
    if parts.scheme == "unix":
        if not parts.path.strip("/"):
            raise ConfigError("the Redis URL names no socket path; one is unix:///run/redis.sock")
        return
    check_host(parts.hostname or "")
    if port == 0:
        raise ConfigError("the Redis URL is not valid: port must be 1..65535")
    database = unquote(parts.path).strip("/")
    if database and not _DATABASE.fullmatch(database):
        raise ConfigError(
            f"the Redis URL has the database {database[:50]!r}, which must be a number, as in redis://host:6379/0"
        )


def check_host(name: str) -> None:
    """Check that a name can be looked up: Python's resolver raises what no caller expects where it cannot be.

    Raises:
        ConfigError: a label is empty or too long.
    """
    try:
        name.encode("idna")
    except UnicodeError:
        raise ConfigError(f"{name[:100]!r} is no name of a host") from None
