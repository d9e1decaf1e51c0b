"""Publishing of synchronous code over several lanes (docs/lanes.md).

The first lane is the application's broker; a call goes there over the connection of Celery's that brings it. To each
further lane this process has one connection of the same kind. The rules are those of
:mod:`dynamo_tasks.store.lanes.directory`.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from dynamo_tasks.errors import QueueFullError
from dynamo_tasks.protocol.options import RequestOptions
from dynamo_tasks.store.keys import Keys
from dynamo_tasks.store.lanes.directory import rank
from dynamo_tasks.store.lanes.lane import share
from dynamo_tasks.store.ledger.submission import NewRequest, idempotency_owner
from dynamo_tasks.store.ledger.sync import NotSentError, SyncLedger
from dynamo_tasks.store.redis.address import Address

__all__ = ["LanePublisher"]

_REMEMBERED = 65_536
_AWAY = 2.0
"""Seconds for which a lane that could not be reached is the last one that is tried."""


class LanePublisher:
    """Publishes for one application.

    Args:
        lanes: Addresses of all lanes, and which of them are drained.
        prefix: The application's ``global_keyprefix``.
        connect: Makes a broker connection to an address.
    """

    def __init__(self, lanes: Sequence[tuple[Address, bool]], prefix: str, connect: Callable[[Address], Any]):
        self._addresses = [address for address, _ in lanes]
        self._drained = {number for number, (_, drained) in enumerate(lanes, 1) if drained}
        self._prefix = prefix
        self._connect = connect
        self._lock = threading.Lock()
        self._channels: dict[int, tuple[int, Any]] = {}
        # A request that was sent to a lane stays there: its reply may be lost, and Celery sends it again.
        self._placed: OrderedDict[str, int] = OrderedDict()
        self._away: dict[int, float] = {}

    @property
    def count(self) -> int:
        """The number of lanes."""
        return len(self._addresses)

    def submit(self, channel: Any, new: NewRequest) -> str:
        """Queue a request on its lane; see :meth:`Ledger.submit`.

        Args:
            channel: Of the first lane.
            new: The request.
        """
        whole, failure, was_placed = new.options, None, new.id in self._placed
        for number in list(self._candidates(channel, new)):
            new.options = self._bounded(whole, number)
            try:
                return self._sent(channel, number, new)
            except (QueueFullError, NotSentError) as exc:
                failure = exc
                if not was_placed:
                    self._placed.pop(new.id, None)
        new.options = whole
        assert failure is not None
        raise failure

    def _sent(self, channel: Any, number: int, new: NewRequest) -> str:
        """Send a request to a lane.

        Raises:
            NotSentError: it cannot be reached.
        """
        try:
            ledger = self.ledger(channel, number)
            self._place(new.id, number)
            return ledger.submit(new)
        except NotSentError:
            self._away[number] = time.monotonic()
            raise

    def ledger(self, channel: Any, number: int) -> SyncLedger:
        """The ledger of a lane.

        Raises:
            NotSentError: it cannot be reached.
        """
        if number <= 1:
            own: SyncLedger = channel.own_ledger
            return own
        with self._lock:
            pid, known = self._channels.get(number, (0, None))
            if known is None or pid != os.getpid() or known.closed:
                known = self._connected(self._connect(self._addresses[number - 1]))
                self._channels[number] = os.getpid(), known
        ledger: SyncLedger = known.own_ledger
        return ledger

    @staticmethod
    def _connected(connection: Any) -> Any:
        try:
            return connection.channel()
        except (*connection.connection_errors, OSError) as exc:
            raise NotSentError(str(exc)) from exc

    def ledgers(self, channel: Any) -> Iterator[SyncLedger]:
        """The ledgers of all lanes that can be reached."""
        for number in range(1, self.count + 1):
            with suppress(*self._errors(channel)):
                yield self.ledger(channel, number)

    @staticmethod
    def _errors(channel: Any) -> tuple[type[BaseException], ...]:
        return (*channel.connection_errors, OSError)

    def _candidates(self, channel: Any, new: NewRequest) -> Sequence[int]:
        if (placed := self._placed.get(new.id)) is not None:
            return [placed]
        keys = Keys(new.endpoint.namespace, self._addresses[0].db, self._prefix)
        if name := new.options.idempotency_key:
            return [self._holder(channel, keys.idempotency(idempotency_owner(new), name))]
        if new.lane:
            return [new.lane]
        if not new.fresh:
            return [self._holder(channel, keys.record(new.id), new.id)]
        now = time.monotonic()
        # Those that were away a moment ago come last: to find that out may take seconds.
        ranked = [number for number in self._ranked(new.id) if number not in self._drained]
        return sorted(ranked, key=lambda number: now - self._away.get(number, -_AWAY) < _AWAY)

    def _ranked(self, key: str) -> list[int]:
        """The lanes in the order in which they are to have a key; those that are drained, last."""
        return sorted(rank(key, self.count), key=self._drained.__contains__)

    def _holder(self, channel: Any, key: str, ranked_by: str = "") -> int:
        """The lane that has a key, of those that answer; else the one that is to have it."""
        ranked = self._ranked(ranked_by or key)
        for number in ranked:
            with suppress(*self._errors(channel)):
                if self.ledger(channel, number).has(key):
                    return number
        return ranked[0]

    def _place(self, request_id: str, number: int) -> None:
        self._placed[request_id] = number
        with suppress(KeyError):  # another thread was faster
            while len(self._placed) > _REMEMBERED:
                self._placed.popitem(last=False)

    def _bounded(self, options: RequestOptions, number: int) -> RequestOptions:
        """Options with a lane's part of what bounds the queue."""
        if not options.max_queue:
            return options
        return msgspec.structs.replace(options, max_queue=share(options.max_queue, number, self.count))
