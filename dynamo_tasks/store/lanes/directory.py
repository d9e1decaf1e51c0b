"""The directory of lanes: which one a new request lives on, and where one is found by its id.

Lanes are ranked for each key by rendezvous hashing over their numbers. So a lane that is added at the end takes its
share of new keys from all others, and no other key moves; what lived elsewhere before is found by asking. A lane
that is drained comes last, and gets no fresh ids at all.

=======================================  ===================================================================
request                                  its lane
=======================================  ===================================================================
one with an idempotency key              the one that knows the key, else the first in the rank of the key
one that names a lane                    that one: children live with their parents, batches on the first lane
one whose id others may use again        the one that knows the id, else the first in the rank of the id
one with a fresh id                      the first in the rank of the id that is up
=======================================  ===================================================================
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import TypeVar

import msgspec

from dynamo_tasks.errors import DynamoError, QueueFullError, RequestNotFoundError, ServerUnavailableError
from dynamo_tasks.store.lanes.lane import Lane, share
from dynamo_tasks.store.ledger.submission import NewRequest, idempotency_owner

__all__ = ["Directory", "rank"]

T = TypeVar("T")
_REMEMBERED = 65_536
_ASK = 1.0
"""Seconds that a lane has to say whether it knows an id: one that hangs must not hold up the others for long."""


def rank(key: str, lanes: int) -> list[int]:
    """Numbers of lanes, from 1, in the order in which they are to have a key."""
    weights = {number: _weight(number, key) for number in range(1, lanes + 1)}
    return sorted(weights, key=weights.__getitem__, reverse=True)


def _weight(number: int, key: str) -> bytes:
    return blake2b(f"{number}:{key}".encode(), digest_size=8).digest()


class Directory:
    """Finds lanes, for one process.

    Args:
        lanes: At least two, by their numbers.
    """

    def __init__(self, lanes: Sequence[Lane]):
        self.lanes = lanes
        # A request that was sent to a lane stays there: its reply may be lost, and it is sent again.
        self._placed: OrderedDict[str, Lane] = OrderedDict()

    def ranked(self, key: str) -> list[Lane]:
        """The lanes in the order in which they are to have a key; those that are drained, last."""
        ranked = [self.lanes[number - 1] for number in rank(key, len(self.lanes))]
        return sorted(ranked, key=lambda lane: lane.drained)

    async def candidates(self, new: NewRequest) -> list[Lane]:
        """Lanes that a new request may live on, the best one first; more than one only for a fresh id."""
        if (placed := self._placed.get(new.id)) is not None:
            return [placed]
        if new.options.idempotency_key:
            return [await self._of_key(new)]
        if new.lane:
            return [self.lanes[new.lane - 1]]
        if not new.fresh:
            return [await self._known(new.id, new.endpoint.namespace) or self.ranked(new.id)[0]]
        ranked = [lane for lane in self.ranked(new.id) if not lane.drained]
        return [lane for lane in ranked if lane.up] or ranked[:1]

    async def _of_key(self, new: NewRequest) -> Lane:
        name = new.options.idempotency_key
        key = self.lanes[0].store.keys(new.endpoint.namespace).idempotency(idempotency_owner(new), name)
        ranked = self.ranked(key)
        return await self._holder(ranked, key) or (self.lanes[new.lane - 1] if new.lane else ranked[0])

    async def _known(self, request_id: str, namespace: str) -> Lane | None:
        key = self.lanes[0].store.keys(namespace).record(request_id)
        return await self._holder(self.ranked(request_id), key)

    async def _holder(self, ranked: Sequence[Lane], key: str) -> Lane | None:
        """The lane that has a key, of those that answer."""

        async def has(lane: Lane) -> bool:
            try:
                async with asyncio.timeout(_ASK):
                    return bool(await lane.store.commands.execute("EXISTS", key))
            except (TimeoutError, DynamoError):
                return False

        found = await asyncio.gather(*map(has, ranked))
        return next((lane for lane, there in zip(ranked, found, strict=True) if there), None)

    async def read(self, key: str) -> bytes | None:
        """Read a key by which requests are placed: of the lane that has it, of those that answer.

        Raises:
            ServerUnavailableError: nobody has it, and the lane that should cannot be reached.
        """
        ranked = self.ranked(key)
        lane = await self._holder(ranked, key) or ranked[0]
        found: bytes | None = await lane.store.commands.execute("GET", key)
        return found

    async def submit(self, new: NewRequest, send: Callable[[Lane], Awaitable[T]]) -> T:
        """Send a new request to its lane; one of a fresh id that finds a full queue there, to the next one.

        Args:
            new: The request.
            send: Sends it, bounded by that lane's part of what bounds its queue.
        """
        whole, failure = new.options, None
        for lane in await self.candidates(new):
            self.remember(new.id, lane)
            if whole.max_queue:
                part = share(whole.max_queue, lane.number, len(self.lanes))
                new.options = msgspec.structs.replace(whole, max_queue=part)
            try:
                return await send(lane)
            except QueueFullError as exc:
                failure = exc
            except asyncio.CancelledError:
                lane.was_silent()
                raise
        assert failure is not None
        raise failure

    def remember(self, request_id: str, lane: Lane) -> None:
        """Note where a request lives."""
        self._placed[request_id] = lane
        while len(self._placed) > _REMEMBERED:
            self._placed.popitem(last=False)

    async def home(self, request_id: str, namespace: str) -> Lane:
        """The lane of a request that is known to be there; see :meth:`where`."""
        return self._placed.get(request_id) or (await self.where(request_id, namespace))[0]

    async def where(self, request_id: str, namespace: str | None = None) -> tuple[Lane, str]:
        """The lane and the namespace that a request lives in: its own lane is asked first, then all others.

        Raises:
            RequestNotFoundError: no lane knows the id.
            ServerUnavailableError: none of those that answer does, and one does not answer.
        """
        first, *others = self.ranked(request_id)
        if (placed := self._placed.get(request_id)) is not None:
            first, others = placed, [lane for lane in self.lanes if lane is not placed]
        away = False
        for lanes in ([first], others):
            answers = await asyncio.gather(*(_ask(lane, request_id, namespace) for lane in lanes))
            for lane, answer in zip(lanes, answers, strict=True):
                if isinstance(answer, str):
                    self.remember(request_id, lane)
                    return lane, answer
            away = away or any(isinstance(answer, ServerUnavailableError) for answer in answers)
        if away:
            raise ServerUnavailableError(
                f"request {request_id!r} may live on a lane that cannot be reached now", retry_after=1.0
            )
        raise RequestNotFoundError(f"no request {request_id!r} is known")


async def _ask(lane: Lane, request_id: str, namespace: str | None) -> str | DynamoError:
    try:
        async with asyncio.timeout(_ASK):
            return await _found(lane, request_id, namespace)
    except TimeoutError:
        return ServerUnavailableError(f"lane {lane.number} does not answer", retry_after=1.0)
    except (RequestNotFoundError, ServerUnavailableError) as exc:
        return exc


async def _found(lane: Lane, request_id: str, namespace: str | None) -> str:
    if not lane.up:
        raise ServerUnavailableError(f"lane {lane.number} cannot be reached", retry_after=1.0)
    return await lane.store.find(request_id, namespace)
