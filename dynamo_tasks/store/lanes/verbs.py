"""The verbs of clients over several lanes: each is done where the request lives."""

from __future__ import annotations

from typing import Protocol

from dynamo_tasks.errors import RequestNotFoundError
from dynamo_tasks.protocol.events import End, EventId
from dynamo_tasks.store.lanes.directory import Directory
from dynamo_tasks.store.ledger.record import Record
from dynamo_tasks.store.ledger.submission import NewRequest
from dynamo_tasks.store.streams.subscription import Subscription

__all__ = ["LaneLedger", "LaneReader", "RequestVerbs", "StreamVerbs"]


class PurgeVerbs(Protocol):
    """See :class:`~dynamo_tasks.store.ledger.upkeep.Upkeep`."""

    async def purge(self, namespace: str, request_id: str, kept: float = 0.0) -> str:
        """Erase payload and stream of an ended request."""


class RequestVerbs(Protocol):
    """The verbs of the ledger that need no more than an id; see :class:`~dynamo_tasks.store.ledger.ledger.Ledger`."""

    async def submit(self, new: NewRequest) -> str:
        """Queue a request."""

    async def get(self, request_id: str, namespace: str | None = None) -> Record:
        """The record of a request."""

    async def cancel(
        self, namespace: str, request_id: str, *, end: End | None = None, guard: str = ""
    ) -> str:
        """End a request that is not ours to finish."""

    async def settle(self, namespace: str, request_id: str) -> None:
        """Note that Celery's completion has run to its end."""

    @property
    def upkeep(self) -> PurgeVerbs:
        """The upkeep that takes no more than an id."""


class StreamVerbs(Protocol):
    """The verbs of the reader that clients need; see :class:`~dynamo_tasks.store.streams.reader.StreamReader`."""

    channel: str

    async def submit(self, new: NewRequest) -> Subscription:
        """Queue a request and read it from its start."""

    async def join(
        self,
        request_id: str,
        *,
        after: EventId | None = None,
        namespace: str | None = None,
        owner_key: str | None = None,
    ) -> Subscription:
        """Read a request that exists."""


class _LaneUpkeep:
    def __init__(self, directory: Directory):
        self._directory = directory

    async def purge(self, namespace: str, request_id: str, kept: float = 0.0) -> str:
        """Erase payload and stream of an ended request."""
        try:
            lane, namespace = await self._directory.where(request_id, namespace)
        except RequestNotFoundError:
            return "GONE"
        return await lane.ledger.upkeep.purge(namespace, request_id, kept)


class LaneLedger:
    """The ledgers of all lanes."""

    def __init__(self, directory: Directory):
        self._directory = directory
        self.upkeep = _LaneUpkeep(directory)

    async def submit(self, new: NewRequest) -> str:
        """Queue a request on its lane; one of a fresh id that finds a full queue there, on the next one."""
        return await self._directory.submit(new, lambda lane: lane.ledger.submit(new))

    async def get(self, request_id: str, namespace: str | None = None) -> Record:
        """The record of a request, wherever it lives."""
        lane, namespace = await self._directory.where(request_id, namespace)
        return await lane.ledger.get(request_id, namespace)

    async def cancel(
        self, namespace: str, request_id: str, *, end: End | None = None, guard: str = ""
    ) -> str:
        """End a request that is not ours to finish."""
        try:
            lane, namespace = await self._directory.where(request_id, namespace)
        except RequestNotFoundError:
            return "GONE"
        return await lane.ledger.cancel(namespace, request_id, end=end, guard=guard)

    async def settle(self, namespace: str, request_id: str) -> None:
        """Note that Celery's completion has run to its end; of a request that nobody knows there is nothing to note."""
        try:
            lane, namespace = await self._directory.where(request_id, namespace)
        except RequestNotFoundError:
            return
        await lane.ledger.settle(namespace, request_id)


class LaneReader:
    """The readers of all lanes: this process is one reader everywhere."""

    def __init__(self, directory: Directory):
        self._directory = directory
        self.channel = directory.lanes[0].reader.channel

    async def submit(self, new: NewRequest) -> Subscription:
        """Queue a request on its lane and read it from its start; see :meth:`LaneLedger.submit`."""
        return await self._directory.submit(new, lambda lane: lane.reader.submit(new))

    async def join(
        self,
        request_id: str,
        *,
        after: EventId | None = None,
        namespace: str | None = None,
        owner_key: str | None = None,
    ) -> Subscription:
        """Read a request that exists, wherever it lives."""
        lane, namespace = await self._directory.where(request_id, namespace)
        return await lane.reader.join(request_id, after=after, namespace=namespace, owner_key=owner_key)
