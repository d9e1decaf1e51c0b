"""Workers' caches as a router follows them: batch after batch, from a snapshot, with an eye on gaps. Pure."""

from __future__ import annotations

from dynamo_tasks.protocol.kv.reports import KvBatch, KvEvent
from dynamo_tasks.router.index import KvIndex
from dynamo_tasks.router.predicted import PredictedLoads, RoutingLoad

__all__ = ["FollowedWorkers"]


class FollowedWorkers:
    """Applies batches to an index.

    ::

        unknown ──batch 1──▶ known ◀──last part of a snapshot── taken over
           │                   │                                     ▲
           └──── ask ──▶ lost ◀┘ gap        lost ──first part────────┘

    What is known of a worker that is lost stays until its snapshot comes: an old map is better than none.

    Args:
        index: The blocks.
        loads: The loads.

    Attributes:
        gaps: How many batches were found missing.
    """

    def __init__(self, index: KvIndex, loads: PredictedLoads) -> None:
        self.gaps = 0
        self._index = index
        self._loads = loads
        self._last: dict[int, int] = {}
        self._lost: set[int] = set()
        self._taking: set[int] = set()

    def is_known(self, worker: int) -> bool:
        """Return whether what is known of a worker's cache is complete."""
        return worker in self._last and worker not in self._lost

    def apply(self, batch: KvBatch, now: float) -> bool:
        """Apply a batch; ``False``: the worker must be asked for a snapshot."""
        worker = batch.worker
        if batch.load is not None:
            load = batch.load
            reported = RoutingLoad(
                load.prefill_tokens, load.active_blocks, load.active_requests, load.total_blocks
            )
            self._loads.report(worker, reported, now, batch.taken)
        last = self._last.get(worker)
        if last is not None and batch.event_id <= last:  # seen: it was read again
            return True
        follows = batch.event_id == (0 if last is None else last) + 1
        if batch.snapshot is not None and (batch.first or (worker in self._taking and follows)):
            self._snapshot(batch, worker, follows)
            return True
        if worker in self._lost:
            return False
        if not follows:
            self.gaps += last is not None
            self._lost.add(worker)
            self._taking.discard(worker)
            return False
        self._last[worker] = batch.event_id
        if batch.snapshot is None:  # of a snapshot that another router has asked for, nothing is new
            self._change(worker, batch.events)
        return True

    def _snapshot(self, batch: KvBatch, worker: int, follows: bool) -> None:
        if batch.first and (worker in self._lost or not follows):
            self._index.clear(worker)
            self._taking.add(worker)
        self._last[worker] = batch.event_id
        if worker in self._taking:
            self._change(worker, batch.events)
            if not batch.snapshot:
                self._taking.discard(worker)
                self._lost.discard(worker)

    def _change(self, worker: int, events: list[KvEvent]) -> None:
        index = self._index
        for event in events:
            if event.type == "BlockStored":
                index.store(worker, event.sequence_hashes)
            elif event.type == "BlockRemoved":
                index.remove(worker, event.sequence_hashes)
            elif event.type == "AllBlocksCleared":
                index.clear(worker)

    def drop(self, worker: int) -> None:
        """Know a worker no more: it is gone."""
        self._last.pop(worker, None)
        self._lost.discard(worker)
        self._taking.discard(worker)
