"""The account of a request: what is reserved for it, and what it is charged for, where its end is written.

Money is counted in whole billionths of the unit of the prices (a price of 0.15 for a million tokens is 150 of them for
one), so that sums are exact.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from dynamo_tasks.errors import ConfigError, InsufficientQuotaError, RateLimitError
from dynamo_tasks.protocol.events import End
from dynamo_tasks.protocol.http.limits import KeyLimits, duration

__all__ = ["BILLION", "Account", "Price", "TokenAllowance", "used_by"]

BILLION = 10**9
_PER_MILLION = BILLION // 10**6
_MOST = 10**6
_MINUTE_MS = 60_000


class Price(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The price of a model, for a million tokens.

    Attributes:
        input: Of prompts.
        output: Of answers.
        cached: Of the part of a prompt that was cached; ``None`` = as ``input``.
    """

    input: float = 0.0
    output: float = 0.0
    cached: float | None = None

    def __post_init__(self) -> None:
        for price in (self.input, self.output, self.cached or 0.0):
            if not 0 <= price <= _MOST:
                raise ConfigError(f"prices must be 0 to {_MOST:g} for a million tokens, not {price}")

    def per_token(self) -> tuple[float, float, float]:
        """Billionths for a token of a prompt, of an answer, and for a cached one."""
        cached = self.input if self.cached is None else self.cached
        return self.input * _PER_MILLION, self.output * _PER_MILLION, cached * _PER_MILLION


class TokenAllowance(Struct, frozen=True):
    """The tokens that a key has left, as Redis answered for one request.

    Attributes:
        limit: Tokens per minute.
        remaining: That may come now.
        reset: Seconds until all of them may come at once again.
    """

    limit: int
    remaining: int
    reset: float

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of an answer, in OpenAI's names."""
        return [
            (b"x-ratelimit-limit-tokens", b"%d" % self.limit),
            (b"x-ratelimit-remaining-tokens", b"%d" % self.remaining),
            (b"x-ratelimit-reset-tokens", duration(self.reset)),
        ]


class Account(Struct):
    """The charge of one request to its API key.

    Attributes:
        model: The served model.
        prompt: Tokens of its prompt, as far as they are known before it runs.
        answer: Tokens that its answer may have.
        limits: Of the key.
        days: How long the ledger of usage is kept.
        price: Of the model.
        left: What Redis said is left of the key's tokens per minute, once it was asked.
    """

    model: str
    prompt: int
    answer: int
    limits: KeyLimits
    days: int
    price: Price = Price()
    left: TokenAllowance | None = None

    @property
    def tokens(self) -> int:
        """Tokens that are reserved."""
        return self.prompt + self.answer

    @property
    def cost(self) -> int:
        """Billionths that are reserved."""
        of_prompt, of_answer, _ = self.price.per_token()
        return round(self.prompt * of_prompt + self.answer * of_answer)

    def kept(self) -> str:
        """The field of the record; see ``store/ledger/lua/lib/account.lua``."""
        reserved = (self.tokens, self.cost) if self.limits.of_tokens else (0, 0)
        prices = " ".join(f"{price:.6g}" for price in self.price.per_token())
        head = f"{self.limits.tokens_per_minute} {reserved[0]} {reserved[1]} {self.prompt}"
        return f"{head} {prices} {self.days} {self.model}"

    def budget(self) -> str:
        """The limits, for the script that checks them; empty = there are none."""
        limits = self.limits
        if not limits.of_tokens:
            return ""
        cost = round(limits.cost_per_day * BILLION)
        return f"{limits.tokens_per_minute} {limits.tokens_per_day} {cost} {self.tokens} {self.cost}"

    def accepted(self, remaining: int, reset_ms: int) -> None:
        """Note what Redis said is left."""
        if self.limits.tokens_per_minute:
            self.left = TokenAllowance(self.limits.tokens_per_minute, remaining, reset_ms / 1000)

    def hopeless(self) -> RateLimitError | None:
        """Return the error of a request that no minute or no day of its key has room for; ``None`` where one has."""
        limits = self.limits
        cost = round(limits.cost_per_day * BILLION)
        if 0 < limits.tokens_per_day < self.tokens:
            return self.refusal("tokens", _MINUTE_MS, 0, 0)
        if 0 < cost < self.cost:
            return self.refusal("cost", _MINUTE_MS, 0, 0)
        return self.refusal("large", _MINUTE_MS, 0, 0) if 0 < limits.tokens_per_minute < self.tokens else None

    def refusal(self, what: str, wait_ms: int, remaining: int, reset_ms: int) -> RateLimitError:
        """The error of a request that is too much.

        Args:
            what: ``minute``, ``large``, ``tokens`` or ``cost``.
            wait_ms: Until it may come again.
            remaining: Tokens that are left of the minute.
            reset_ms: Until it is whole.
        """
        self.accepted(remaining, reset_ms)
        limits, wait = self.limits, wait_ms / 1000
        if what == "tokens":
            text = f"its budget of {limits.tokens_per_day} tokens per day is used up"
            return InsufficientQuotaError(f"this API key: {text}", retry_after=wait)
        if what == "cost":
            text = f"its budget of {limits.cost_per_day:g} per day is used up"
            return InsufficientQuotaError(f"this API key: {text}", retry_after=wait)
        text = f"more than {limits.tokens_per_minute} tokens per minute; this request may take {self.tokens}"
        return RateLimitError(f"this API key: {text}", retry_after=wait)


def used_by(end: End) -> str:
    """Tokens that a request used, as its last event says: tokens of prompt, answer, of these cached and of reasoning.

    Empty where it does not say: then the tokens in its stream are counted.
    """
    usage = end.usage or _usage_of(end.values)
    if usage is None:
        return ""
    names = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
    counts = [usage.get(name, 0) for name in names]
    return " ".join(map(str, counts)) if all(isinstance(one, int) for one in counts) else ""


def _usage_of(values: list[Any] | None) -> dict[str, Any] | None:
    """The usage in the value of an endpoint that returns one, as ``embed`` does."""
    found = values[0] if values else None
    if not isinstance(found, dict):
        return None
    usage = found.get("usage", found)
    return usage if isinstance(usage, dict) and "prompt_tokens" in usage else None
