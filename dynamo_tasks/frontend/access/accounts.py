"""Accounts of requests that come in: what is reserved for one, by its prompt and by what its answer may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.account import Account, Price
from dynamo_tasks.protocol.http.limits import KeyLimits

__all__ = ["Accounts"]

_LIMITS = ("max_completion_tokens", "max_tokens")
_USUAL_ANSWER = 1024
"""Tokens that are reserved for an answer whose request does not bound it."""
_BYTES_PER_TOKEN = 4
_LONGEST = 3660
_ANY = "*"


class Accounts(Struct, frozen=True):
    """The settings of accounts.

    Attributes:
        days: Days for which the usage of a day is kept; 0 = none is.
        prices: Of models; ``*`` stands for all others.
    """

    days: int = 90
    prices: dict[str, Price] = {}

    @classmethod
    def read(cls, days: Any, prices: Any) -> Accounts:
        """Read the settings ``usage_days`` and ``prices``.

        Raises:
            ConfigError: One of them is not valid.
        """
        if isinstance(days, bool) or not isinstance(days, int) or not 0 <= days <= _LONGEST:
            raise ConfigError(
                f"usage_days must be 0 to {_LONGEST} days, not {days!r:.60}", param="usage_days"
            )
        try:
            return cls(days, msgspec.convert(prices or {}, dict[str, Price]))
        except (msgspec.ValidationError, ConfigError) as error:
            raise ConfigError(
                f"prices: {error}; give {{model: {{input, output, cached}}}}, for a million tokens",
                param="prices",
            ) from None

    def of(self, limits: KeyLimits, model: str, payload: Any, size: int) -> Account | None:
        """The account of a request.

        Args:
            limits: Of its key.
            model: The served model.
            payload: As it goes to the queue.
            size: Bytes of its body: an upper bound of a prompt that is not tokenized here.
        """
        if not (self.days or limits.of_tokens):
            return None
        price = self.prices.get(model) or self.prices.get(_ANY) or Price()
        body = payload.get("body", payload) if isinstance(payload, dict) else {}
        prompt, count = _prompt(body, size)
        return Account(model, prompt, count * _answer(body), limits, self.days, price)


def _prompt(body: Mapping[str, Any], size: int) -> tuple[int, int]:
    """Tokens of the prompts, and how many prompts there are."""
    ids = body.get("prompt_token_ids")
    if isinstance(ids, list) and ids:
        return (sum(map(len, ids)), len(ids)) if isinstance(ids[0], list) else (len(ids), 1)
    prompts = body.get("prompt")
    several = (
        len(prompts) if isinstance(prompts, list) and prompts and isinstance(prompts[0], str | list) else 1
    )
    return -(-size // _BYTES_PER_TOKEN), several


def _answer(body: Mapping[str, Any]) -> int:
    """Tokens that the answers to one prompt may have."""
    if not any(name in body for name in ("messages", "prompt", "prompt_token_ids")):
        return 0  # embeddings
    asked = next((body[name] for name in _LIMITS if isinstance(body.get(name), int)), _USUAL_ANSWER)
    choices = body.get("n")
    return int(asked) * (choices if isinstance(choices, int) and choices > 0 else 1)
