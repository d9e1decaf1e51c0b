"""Lanes: the servers of a deployment, each of them whole (docs/lanes.md)."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Sequence

from dynamo_tasks.config.host.redis_lanes import lane_url, split_lanes
from dynamo_tasks.errors import ConfigError, DynamoError, ServerUnavailableError
from dynamo_tasks.observe.log import event
from dynamo_tasks.store.ledger.ledger import Ledger
from dynamo_tasks.store.redis.address import Address
from dynamo_tasks.store.redis.retry import retry_first
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.streams.reader import StreamReader

__all__ = ["Lane", "check_share", "connected", "lane_addresses", "opened", "parse_lanes", "share"]

_SILENT = 5.0
"""Seconds for which a lane that did not answer in time gets no new requests, if there are others."""


def lane_addresses(text: str) -> list[Address]:
    """The addresses of all lanes, the first one first.

    Args:
        text: URLs of servers, with blanks or commas between.

    Raises:
        ConfigError: one is not valid, two are the same server, or they have different databases; says which.
    """
    return [address for address, _ in parse_lanes(text)]


def parse_lanes(text: str) -> list[tuple[Address, bool]]:
    """The addresses of all lanes, and which of them are drained; see :func:`lane_addresses`.

    Raises:
        ConfigError: also where the first lane is drained.
    """
    urls = split_lanes(text)
    if len(urls) == 1 and "#" not in urls[0]:
        return [(Address.parse(urls[0]), False)]
    lanes = [_parse(number, url) for number, url in enumerate(urls, 1)]
    if lanes[0][1]:
        raise ConfigError("lane 1 cannot be drained: Celery's results, objects of APIs and more are there")
    check_lanes([address for address, _ in lanes])
    return lanes


def _parse(number: int, text: str) -> tuple[Address, bool]:
    try:
        url, drained = lane_url(text)
        return Address.parse(url), drained
    except ConfigError as exc:
        raise ConfigError(f"lane {number}: {exc.message}") from None


def check_lanes(addresses: list[Address]) -> None:
    """Refuse addresses that cannot be lanes beside each other."""
    seen: dict[str, int] = {}
    for number, address in enumerate(addresses, 1):
        # Without its database: two of one server are no two lanes, since they share its one core and its pub/sub.
        where = str(address).rpartition("/")[0] if address.sentinels is None else str(address)
        first = seen.setdefault(where, number)
        if first != number:
            raise ConfigError(
                f"lanes {first} and {number} are the same Redis server, {address}: name each once"
            )
        if address.db != addresses[0].db:
            raise ConfigError(
                f"lane {number} has the database {address.db}, lane 1 has {addresses[0].db}: all lanes need the same"
            )


def share(limit: int, number: int, lanes: int) -> int:
    """The part of a limit that one of several lanes holds; all parts together are the limit, if it is large enough.

    Args:
        limit: Of all; at least 1.
        number: Of the lane, from 1.
        lanes: How many there are.

    Returns:
        At least 1.

    Example:
        >>> [share(5, number, 2) for number in (1, 2)]
        [3, 2]
    """
    return max(1, limit // lanes + (number <= limit % lanes))


def check_share(what: str, limit: int | None, lanes: int) -> None:
    """Refuse a limit that lanes cannot share.

    Raises:
        ConfigError: it is smaller than their number.
    """
    if limit is not None and 0 < limit < lanes:
        raise ConfigError(f"{what}: {limit} cannot be shared by {lanes} lanes; it must be {lanes} or more")


class Lane:
    """One server, as a process that submits and reads uses it.

    Attributes:
        number: From 1, by the order in which the lanes are named.
        store: Its command connection.
        ledger: Its requests.
        reader: This process's reader of its streams.
        drained: It gets no new requests; those that are there go on, and are found.
    """

    def __init__(self, number: int, store: Store, client: str | None = None, *, drained: bool = False):
        self.number = number
        self.store = store
        self.drained = drained
        self.ledger = Ledger(store)
        self.reader = StreamReader(store, client)
        self._opening: asyncio.Task[None] | None = None
        self._has_store = False
        self._silent_until = 0.0

    @property
    def up(self) -> bool:
        """``True`` while it is connected to, and nobody has waited for it in vain in the last seconds."""
        return self.store.commands.connected and time.monotonic() >= self._silent_until

    def was_silent(self) -> None:
        """Somebody gave up waiting for it: for a moment, what can go elsewhere does."""
        self._silent_until = time.monotonic() + _SILENT

    async def open(self) -> None:
        """Connect; raises what is wrong with it."""
        if not self._has_store:
            await self.store.start()
            self._has_store = True
        await self.reader.start()

    async def begin(self) -> None:
        """Connect; one that is away is connected to in the background: others go on without it.

        Raises:
            ConfigError: it cannot be used, e.g. since it is too old.
        """
        try:
            await self.open()
        except ServerUnavailableError as exc:
            event(
                "store.reconnect_failed", connection="lane", server=str(self.store.address), error=exc.message
            )
            self._opening = asyncio.create_task(self._go_on(), name=f"lane-{self.number}")

    async def _go_on(self) -> None:
        try:
            await retry_first(self.open, math.inf)
        except DynamoError as exc:
            event("config.warning", key=f"lane {self.number}", problem=exc.message)

    async def close(self) -> None:
        """Close its connections; every reader leaves."""
        if self._opening is not None:
            self._opening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._opening
        await self.reader.close()
        await self.store.close()


@contextlib.asynccontextmanager
async def connected(urls: str, prefix: str, *, all_of_them: bool = True) -> AsyncIterator[list[Store]]:
    """Command connections to all lanes, for one question.

    Args:
        urls: Of the lanes.
        prefix: What all keys start with.
        all_of_them: Whether one that is away is an error; else it is not connected.

    Raises:
        ServerUnavailableError: one is away; without ``all_of_them``: all are.
    """
    stores = [Store.at(address, prefix=prefix) for address in lane_addresses(urls)]
    failures: list[ServerUnavailableError] = []
    try:
        for store in stores:
            try:
                await store.start()
            except ServerUnavailableError as exc:
                failures.append(exc)
        if failures and (all_of_them or len(failures) == len(stores)):
            raise failures[0]
        yield stores
    finally:
        for store in stores:
            await store.close()


def opened(urls: str, prefix: str) -> Sequence[Lane]:
    """The lanes of a text of URLs, not connected yet."""
    lanes: list[Lane] = []
    for number, (address, drained) in enumerate(parse_lanes(urls), 1):
        # One name for the readers of all lanes: a process is one reader, wherever a request lives.
        client = lanes[0].reader.client if lanes else None
        lanes.append(Lane(number, Store.at(address, prefix=prefix), client, drained=drained))
    return lanes
