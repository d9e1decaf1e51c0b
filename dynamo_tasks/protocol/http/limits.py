"""The limits of one API key, and the allowance that it has left."""

from __future__ import annotations

from msgspec import Struct

from dynamo_tasks.errors import ConfigError, RateLimitError

__all__ = ["OWN_CACHE", "Allowance", "KeyLimits"]

OWN_CACHE = "*"
"""The cache namespace that is each key's own."""


class KeyLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one API key.

    Attributes:
        requests_per_minute: As many may come at once; then one is earned every ``60 / n`` s. 0 = no limit.
        concurrent_requests: That have not ended, waiting ones included. 0 = no limit.
        weight: Its share of a component that is not enough for all; 1 = as much as any other key.
        cache_namespace: Its requests share cached prefixes with those of the same namespace alone; ``"*"`` = with its
            own alone; empty = with all that impose none.
        admin: It sees the requests of all keys on the live page, and may cancel them.
    """

    requests_per_minute: int = 0
    concurrent_requests: int = 0
    weight: float = 1.0
    cache_namespace: str = ""
    admin: bool = False

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "concurrent_requests"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 (no limit) or more, not {getattr(self, name)}")
        if not 0.001 <= self.weight <= 1000:
            raise ConfigError(f"weight must be 0.001 to 1000, not {self.weight}")


class Allowance(Struct, frozen=True, kw_only=True):
    """The allowance that a key has left, as Redis answered for one request.

    Attributes:
        limit: Requests per minute; 0 = no limit.
        remaining: That may come now.
        reset: Seconds until all of them may come at once again.
        retry_after: Seconds after which a refused request may come again; 0 = it was not refused.
        reason: Why it was refused; empty = it was not.
    """

    limit: int
    remaining: int = 0
    reset: float = 0.0
    retry_after: float = 0.0
    reason: str = ""

    def check(self) -> None:
        """Raise :class:`RateLimitError` where the request is refused."""
        if self.reason:
            raise RateLimitError(f"this API key: {self.reason}", retry_after=self.retry_after)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of an answer, in OpenAI's names; none without a limit of requests per minute."""
        if not self.limit:
            return []
        return [
            (b"x-ratelimit-limit-requests", b"%d" % self.limit),
            (b"x-ratelimit-remaining-requests", b"%d" % self.remaining),
            (b"x-ratelimit-reset-requests", _duration(self.reset)),
        ]


def _duration(seconds: float) -> bytes:
    """``850ms``, ``1.5s``, ``1m2s``: how OpenAI writes it."""
    if seconds < 1:
        return b"%dms" % round(seconds * 1000)
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".").encode() + b"s"
    minutes, rest = divmod(round(seconds), 60)
    return b"%dm%ds" % (minutes, rest)
