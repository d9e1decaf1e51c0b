"""Reports of usage: rows of the ledger with the names of their keys and tenants, in pages, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import date, timedelta
from hashlib import blake2b
from typing import Any, NamedTuple

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.frontend.access.admission import ApiKeys, key_id
from dynamo_tasks.protocol.account import BILLION
from dynamo_tasks.store.accounts.api_keys import StoredKeys
from dynamo_tasks.store.accounts.usage import Usage, UsageRow

__all__ = ["COLUMNS", "MOST_ROWS", "UsageQuery", "UsageReport", "as_csv"]

COLUMNS = (
    "date", "key_id", "key_name", "tenant", "model", "requests", "errors", "input_tokens", "cached_tokens",
    "output_tokens", "reasoning_tokens", "ttft_ms_sum", "ttft_count", "cost",
)  # fmt: skip
MOST_ROWS = 10_000
"""On one page."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of texts that spreadsheets would compute."""


class _Named(NamedTuple):
    """The names of an owner, as others may see them."""

    id: str
    name: str
    tenant: str


class UsageQuery(NamedTuple):
    """The rows that are asked for.

    Attributes:
        start: First day.
        end: Last day.
        owner: Whose; ``None`` = all.
        key: Id of a key; empty = all.
        tenant: Empty = all.
        model: Empty = all.
        newest_first: Days in this order.
        limit: Most rows.
        after: Id of the last row that is known; empty = from the start.
    """

    start: date
    end: date
    owner: str | None = None
    key: str = ""
    tenant: str = ""
    model: str = ""
    newest_first: bool = True
    limit: int = 100
    after: str = ""


class UsageReport:
    """Reads usage.

    Args:
        usage: The ledger.
        stored: Keys that were made at run time.
        configured: Keys of the settings.
    """

    def __init__(self, usage: Usage, stored: StoredKeys, configured: ApiKeys):
        self._usage = usage
        self._stored = stored
        self._configured = configured

    async def page(self, query: UsageQuery) -> tuple[list[dict[str, Any]], bool]:
        """The rows of a page, and whether more follow.

        Raises:
            InvalidRequestError: No row has the id ``after``.
        """
        found: list[dict[str, Any]] = []
        waits = bool(query.after)
        async for row in self._rows(query):
            if waits:
                waits = row["id"] != query.after
                continue
            if len(found) == query.limit:
                return found, True
            found.append(row)
        if waits:
            raise InvalidRequestError(f"after: no row has the id {query.after!r:.100}", param="after")
        return found, False

    async def _rows(self, query: UsageQuery) -> AsyncIterator[dict[str, Any]]:
        names = await self._names()
        for day in _days(query):
            for row in await self._usage.of_day(day, query.owner):
                named = names.get(row.owner) or self._configured_name(row.owner)
                wanted = ((query.key, named.id), (query.tenant, named.tenant), (query.model, row.model))
                if all(asked in ("", there) for asked, there in wanted):
                    yield _shown(row, named)

    async def _names(self) -> dict[str, _Named]:
        return {key.owner: _Named(key.id, key.name, key.limits.tenant) for key in await self._stored.all()}

    def _configured_name(self, owner: str) -> _Named:
        """Of a key of the settings, or of one that was forgotten: as logs name it."""
        return _Named(key_id(owner), "", self._configured.limits(owner).tenant)


def as_csv(rows: Iterable[dict[str, Any]]) -> bytes:
    """Rows as CSV with a head line; no text of theirs is a formula to a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    writer.writerows([_cell(row[name]) for name in COLUMNS] for row in rows)
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _days(query: UsageQuery) -> Sequence[date]:
    """The days to look at; those before the last known row's are not read again."""
    count = (query.end - query.start).days + 1
    days = [query.start + timedelta(days=number) for number in range(count)]
    if query.newest_first:
        days.reverse()
    known = query.after.removeprefix("usage_").partition("_")[0]
    at = next((place for place, day in enumerate(days) if day.isoformat() == known), 0)
    return days[at:]


def _shown(row: UsageRow, named: _Named) -> dict[str, Any]:
    digest = blake2b(f"{row.owner}\n{row.model}".encode(), digest_size=8).hexdigest()
    return {
        "id": f"usage_{row.day.isoformat()}_{digest}", "object": "usage", "date": row.day.isoformat(),
        "key_id": named.id, "key_name": named.name, "tenant": named.tenant, "model": row.model,
        "requests": row.requests, "errors": row.errors, "input_tokens": row.prompt, "cached_tokens": row.cached,
        "output_tokens": row.answer, "reasoning_tokens": row.reasoning, "ttft_ms_sum": row.ttft_ms,
        "ttft_count": row.ttft_count, "cost": row.cost / BILLION,
    }  # fmt: skip
