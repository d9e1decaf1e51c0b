"""Usage of API keys by day and model, as ``lua/lib/account.lua`` counts it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from itertools import product

from msgspec import Struct

from dynamo_tasks.errors import ProtocolError
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.server import Store

__all__ = ["Usage", "UsageRow"]

_EPOCH = date(1970, 1, 1)
_AT_ONCE = 500
_ASK = 2.0
_NUMBERS = 9


class UsageRow(Struct):
    """Usage of one model by one key in one day.

    Attributes:
        day: Of UTC.
        owner: Name of the key's owner.
        model: The served model.
        requests: That ended.
        errors: Of these, that did not succeed.
        prompt: Tokens.
        answer: Tokens.
        cached: Tokens of prompts.
        reasoning: Tokens of answers, where known.
        ttft_ms: Sum of the times to the first token.
        ttft_count: How many requests that is of.
        cost: Billionths.
    """

    day: date
    owner: str
    model: str
    requests: int = 0
    errors: int = 0
    prompt: int = 0
    answer: int = 0
    cached: int = 0
    reasoning: int = 0
    ttft_ms: int = 0
    ttft_count: int = 0
    cost: int = 0


class Usage:
    """The usage ledger of some namespaces.

    Args:
        store: Redis.
        namespaces: Where requests live.
        further: Servers of the other lanes: each counts its requests.
    """

    def __init__(self, store: Store, namespaces: Iterable[str], further: Sequence[Store] = ()):
        self._stores = (store, *further)
        self._namespaces = sorted(set(namespaces))

    async def of_day(self, day: date, owner: str | None = None) -> list[UsageRow]:
        """The rows of a day, by owner and model.

        Args:
            day: Of UTC.
            owner: Whose; ``None`` = all.
        """
        found: dict[tuple[str, str], UsageRow] = {}
        number = (day - _EPOCH) // timedelta(days=1)
        for store, namespace in product(self._stores, self._namespaces):
            keys = store.keys(namespace)
            owners = [owner] if owner is not None else await _owners(store, keys.usage_owners(number))
            # One of several lanes may be away: who asks is told so, and does not wait for it.
            wire = await store.commands.wire(_ASK if len(self._stores) > 1 else None)
            for at in range(0, len(owners), _AT_ONCE):
                some = owners[at : at + _AT_ONCE]
                replies = await wire.ask([("HGETALL", keys.usage(number, one)) for one in some])
                for one, pairs in zip(some, replies, strict=True):
                    _add(found, day, one, pairs)
        return [found[name] for name in sorted(found)]


async def _owners(store: Store, key: str) -> list[str]:
    return [raw.decode(errors="replace") for raw in await store.commands.execute("SMEMBERS", key)]


def _add(found: dict[tuple[str, str], UsageRow], day: date, owner: str, pairs: list[bytes]) -> None:
    for raw, value in zip(pairs[::2], pairs[1::2], strict=True):
        with contained("ledger", "the usage of a day"):
            model, numbers = raw.decode(errors="replace"), _read(value)
            row = found.setdefault((owner, model), UsageRow(day, owner, model))
            for name, more in zip(UsageRow.__struct_fields__[-_NUMBERS:], numbers, strict=True):
                setattr(row, name, getattr(row, name) + more)


def _read(value: bytes) -> list[int]:
    try:
        numbers = [int(one) for one in value.split()]
    except ValueError as error:
        raise ProtocolError(f"a row of usage cannot be read: {error}") from error
    if len(numbers) != _NUMBERS:
        raise ProtocolError(f"a row of usage has {len(numbers)} numbers, not {_NUMBERS}")
    return numbers
