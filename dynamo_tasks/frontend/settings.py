"""Settings of the HTTP side."""

from __future__ import annotations

from msgspec import Struct

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.frontend.access.configured import ApiKey

__all__ = ["BOUNDED", "FrontendSettings"]

_MIB = 1 << 20
_LONGEST = 366 * 86400.0
BOUNDED = {name: f"max_{name}" for name in ("retention", "abandon_after", "timeout")}
"""Option of a request → the setting that bounds it."""


class FrontendSettings(Struct, frozen=True, kw_only=True):
    """The settings of the HTTP side.

    Attributes:
        api_keys: Accepted API keys; empty = open to everybody.
        body_limit: Bytes of the largest request body that is accepted (10 MiB).
        max_file_bytes: Bytes of the largest file that may be uploaded (512 MiB).
        keep_alive: Seconds of silence on a stream after which a comment is sent (15).
        header_delay: Seconds for which the headers of a new stream wait for the first token, so that a
            refusal by the engine is a proper HTTP error and not a 200 that turns bad (0.25).
        cors_origins: Web pages that may use the server; see :mod:`dynamo_tasks.frontend.access.admission`.
        allowed_hosts: Names under which it is known, besides addresses and local names.
        host: What it listens at.
        max_retention: Most seconds of ``retention`` that a request may ask for (a day, as long as its record lives).
        max_abandon_after: Most of ``abandon_after`` (an hour).
        max_timeout: Most of ``timeout`` and ``X-Request-Timeout`` (a day).
        response_retention: Seconds for which a stored response is kept after its end (a day, as long as its record
            lives).
        conversation_retention: Seconds for which a conversation is kept after it was used (30 days).
        announces: Whether a webhook wants to know of the ends of responses.
    """

    api_keys: tuple[ApiKey | str, ...] = ()
    body_limit: int = 10 * _MIB
    max_file_bytes: int = 512 * _MIB
    keep_alive: float = 15.0
    header_delay: float = 0.25
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    max_retention: float = 86400.0
    max_abandon_after: float = 3600.0
    max_timeout: float = 86400.0
    response_retention: float = 86400.0
    conversation_retention: float = 30 * 86400.0
    announces: bool = False

    def __post_init__(self) -> None:
        for name in ("body_limit", "max_file_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1 byte, not {getattr(self, name)}")
        if not self.keep_alive > 0:
            raise ConfigError(f"keep_alive must be more than 0 seconds, not {self.keep_alive}")
        for name in (*BOUNDED.values(), "response_retention", "conversation_retention"):
            if not 0 < getattr(self, name) <= _LONGEST:
                raise ConfigError(
                    f"{name} must be more than 0 seconds and at most a year, not {getattr(self, name)}"
                )
        if not self.header_delay >= 0:
            raise ConfigError(f"header_delay must be 0 or more seconds, not {self.header_delay}")

    def __repr__(self) -> str:
        keys = f"<{len(self.api_keys)} keys>"
        return (
            f"FrontendSettings(api_keys={keys}, body_limit={self.body_limit}, keep_alive={self.keep_alive})"
        )
