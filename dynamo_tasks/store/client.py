"""Clients of Redis, for a process that submits and reads: store, ledger, registry, reader; of one server or several."""

from __future__ import annotations

import asyncio
import math
import os
import threading

from dynamo_tasks.config.host.redis_lanes import lane_url, split_lanes
from dynamo_tasks.store.bridge import bridge
from dynamo_tasks.store.lanes.directory import Directory
from dynamo_tasks.store.lanes.lane import opened
from dynamo_tasks.store.lanes.verbs import LaneLedger, LaneReader, RequestVerbs, StreamVerbs
from dynamo_tasks.store.redis.retry import retry_first
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.registry import Registry

__all__ = ["StoreClient", "close_shared", "shared_client"]


class StoreClient:
    """A store, its ledger, its registry and this process's reader; lives on one event loop.

    Args:
        url: Of Redis; those of several servers (lanes, docs/lanes.md), with blanks or commas between.
        prefix: What all keys start with.

    Attributes:
        url: The same.
        lanes: All servers; most deployments have one.
        store: Of the first lane, where all is that is no request.
        ledger: Of the requests on all lanes.
        reader: Of the streams on all lanes.
    """

    ledger: RequestVerbs
    reader: StreamVerbs

    def __init__(self, url: str, prefix: str = ""):
        self.url = url
        self.lanes = opened(url, prefix)
        first = self.lanes[0]
        self.store = first.store
        self.registry = Registry(first.store)
        self._directory: Directory | None = None
        if len(self.lanes) == 1:
            self.ledger, self.reader = first.ledger, first.reader
        else:
            self._directory = Directory(self.lanes)
            self.ledger, self.reader = LaneLedger(self._directory), LaneReader(self._directory)

        self._opening: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, url: str, *, prefix: str = "", within: float = 0.0) -> StoreClient:
        """Connect to a server; see :meth:`Store.connect`.

        Args:
            url: Of Redis.
            prefix: What all keys start with.
            within: Seconds that a server which is away, or refuses for the moment, is waited for.
        """
        client = cls(url, prefix)
        await client._open(within)
        return client

    @classmethod
    async def begin(cls, url: str, *, prefix: str = "") -> StoreClient:
        """A client that connects in the background, for as long as that takes; see :meth:`ready`."""
        client = cls(url, prefix)
        client._opening = asyncio.create_task(client._open(math.inf), name="store-client")
        client._opening.add_done_callback(_noted)
        return client

    async def _open(self, within: float) -> None:
        try:
            await retry_first(self.store.start, within)
            await retry_first(self.lanes[0].reader.start, within)
            if self._directory is not None:
                await asyncio.gather(*(lane.begin() for lane in self.lanes[1:]))
        except BaseException:
            await self._close()
            raise

    async def ready(self) -> None:
        """Wait until it has connected for the first time; a caller that gives up leaves the others waiting.

        Raises:
            DynamoError: it never will, e.g. since Redis is too old, or refuses the password.
        """
        if self._opening is not None:
            await asyncio.shield(self._opening)
            self._opening = None

    @property
    def failed(self) -> bool:
        """``True`` once connecting has failed for good: only a new client may still connect."""
        opening = self._opening
        return opening is not None and opening.done() and (opening.cancelled() or bool(opening.exception()))

    async def where(self, request_id: str, namespace: str | None = None) -> tuple[Store, str]:
        """The server and the namespace that a request lives in.

        Raises:
            RequestNotFoundError: nobody knows the id.
            ServerUnavailableError: a server that may know it cannot be reached.
        """
        if self._directory is None:
            return self.store, await self.store.find(request_id, namespace)
        lane, namespace = await self._directory.where(request_id, namespace)
        return lane.store, namespace

    async def home(self, request_id: str, namespace: str) -> Store:
        """The server of a request that was just found, or submitted, by this process: mostly without asking."""
        if self._directory is None:
            return self.store
        return (await self._directory.home(request_id, namespace)).store

    async def read_key(self, name: str) -> bytes | None:
        """Read a key that stands for a request, such as that of an idempotency key, on whichever lane it is.

        Raises:
            ServerUnavailableError: the server that should have it cannot be reached.
        """
        if self._directory is None:
            found: bytes | None = await self.store.commands.execute("GET", name)
            return found
        return await self._directory.read(name)

    async def namespace_of(self, request_id: str) -> str:
        """The namespace that a request lives in; see :meth:`where`."""
        return (await self.where(request_id))[1]

    async def close(self) -> None:
        """Close all connections; every reader leaves."""
        if self._opening is not None and self._opening.cancel():
            await asyncio.wait([self._opening])
        await self._close()

    async def _close(self) -> None:
        for lane in self.lanes:
            await lane.close()


def _noted(opening: asyncio.Task[None]) -> None:
    """Mark an error as retrieved: asyncio complains where nobody awaits :meth:`StoreClient.ready`."""
    if not opening.cancelled():
        opening.exception()


_lock = threading.Lock()
_clients: dict[tuple[str, str], StoreClient] = {}
_inherited: list[dict[tuple[str, str], StoreClient]] = []


def shared_client(url: str, prefix: str = "") -> StoreClient:
    """The client of synchronous code in this process; lives on the bridge's loop.

    It may not be connected yet: the caller awaits :meth:`StoreClient.ready` there, within its own timeout.
    Nobody waits here, where all threads pass one by one.
    """
    with _lock:
        client = _clients.get((url, prefix))
        if client is None or client.failed:
            client = _clients[url, prefix] = bridge().call(StoreClient.begin(url, prefix=prefix))
        return client


def _forked() -> None:
    """A forked child makes clients of its own: the loop's thread is not in it, and the sockets are its parent's."""
    global _lock, _clients
    _lock = threading.Lock()
    # Kept, not closed: what they are connected to is still in use over there.
    _inherited.append(_clients)
    _clients = {}


os.register_at_fork(after_in_child=_forked)


def close_shared(url: str) -> None:
    """Close this process's clients of a server, e.g. before a program ends or a test's server goes."""
    with _lock:
        gone = [
            _clients.pop(key)
            for key in list(_clients)
            if url in [lane_url(one)[0] for one in split_lanes(key[0])]
        ]
    for client in gone:
        bridge().call(client.close())
