"""The limits of one API key, and the allowance that it has left."""

from __future__ import annotations

import re

from msgspec import Struct

from dynamo_tasks.errors import ConfigError, RateLimitError

__all__ = ["OWN_CACHE", "Allowance", "KeyLimits", "duration"]

OWN_CACHE = "*"
"""The cache namespace that is each key's own."""

_COUNTED = (
    "requests_per_minute", "concurrent_requests", "tokens_per_minute", "tokens_per_day", "cost_per_day",
)  # fmt: skip
_MOST = 10**9
_NAME = 256
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")


class KeyLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one API key.

    Attributes:
        requests_per_minute: As many may come at once; then one is earned every ``60 / n`` s. 0 = no limit.
        concurrent_requests: That have not ended, waiting ones included. 0 = no limit.
        tokens_per_minute: Of prompts and answers; as many may come at once. 0 = no limit.
        tokens_per_day: Of a day of UTC. 0 = no limit.
        cost_per_day: Money of a day of UTC, in the unit of the setting ``prices``. 0 = no limit.
        weight: Its share of a component that is not enough for all; 1 = as much as any other key.
        cache_namespace: Its requests share cached prefixes with those of the same namespace alone; ``"*"`` = with its
            own alone; empty = with all that impose none.
        admin: It sees the requests and the usage of all keys, and may cancel their requests.
        models: Served models and other names that it may ask for; empty = all.
        tenant: Whose it is: keys of a tenant share its turns; empty = it is a tenant of its own.
    """

    requests_per_minute: int = 0
    concurrent_requests: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0
    cost_per_day: float = 0.0
    weight: float = 1.0
    cache_namespace: str = ""
    admin: bool = False
    models: tuple[str, ...] = ()
    tenant: str = ""

    def __post_init__(self) -> None:
        for name in _COUNTED:
            if not 0 <= getattr(self, name) <= _MOST:
                raise ConfigError(
                    f"{name} must be 0 (no limit) to {_MOST:g}, not {getattr(self, name)}", param=name
                )
        if not 0.001 <= self.weight <= 1000:
            raise ConfigError(f"weight must be 0.001 to 1000, not {self.weight}")
        if self.tenant and not _TENANT.fullmatch(self.tenant):
            raise ConfigError(
                f"tenant {self.tenant!r:.80} must be 1 to 64 of the characters A-Z a-z 0-9 . _ -"
            )
        if any(not 0 < len(name) <= _NAME or not name.isprintable() for name in self.models):
            raise ConfigError(f"models must be names of 1 to {_NAME} printable characters")

    @property
    def counts_open(self) -> bool:
        """``True`` if its requests are counted until they end, so that all live where they are counted."""
        return self.concurrent_requests > 0 or self.of_tokens

    @property
    def of_tokens(self) -> bool:
        """``True`` if tokens or money are limited."""
        return bool(self.tokens_per_minute or self.tokens_per_day or self.cost_per_day)

    def allows(self, *names: str) -> bool:
        """Return whether a model may be asked for, by one of its names."""
        return not self.models or any(name in self.models for name in names)


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
            (b"x-ratelimit-reset-requests", duration(self.reset)),
        ]


def duration(seconds: float) -> bytes:
    """``850ms``, ``1.5s``, ``1m2s``: how OpenAI writes it."""
    if seconds < 1:
        return b"%dms" % round(seconds * 1000)
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".").encode() + b"s"
    minutes, rest = divmod(round(seconds), 60)
    return b"%dm%ds" % (minutes, rest)
