"""KV events: reports of workers on their prefix caches, and on the requests that they have, for routers to follow.

A batch on the topic ``kv_events`` of the component::

    {"worker_id": "1f", "event_id": 7, "events": [{"type": "BlockStored", "sequence_hashes": [...], ...}, ...],
     "load": {"prefill_tokens": ...}, "taken": [request ids], ...}

``event_id`` counts the batches of an instance, from 1: a number that is missing was lost. Events have vLLM's words and
fields; ``sequence_hashes`` are those of :mod:`dynamo_tasks.protocol.kv.block_hashes`. A snapshot is all that is cached
at that point, in one or several batches; any router asks for it by ``{"worker_id"}`` on the topic
``kv_snapshot_requests``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from dynamo_tasks.errors import ProtocolError
from dynamo_tasks.protocol.events import UNREADABLE

__all__ = ["KV_EVENTS", "KV_SNAPSHOT_REQUESTS", "KvBatch", "KvEvent", "KvLoad"]

KV_EVENTS = "kv_events"
KV_SNAPSHOT_REQUESTS = "kv_snapshot_requests"


class KvEvent(msgspec.Struct, omit_defaults=True):
    """A change of a prefix cache, as far as routers need it.

    Attributes:
        type: ``BlockStored``, ``BlockRemoved`` or ``AllBlocksCleared``; others are passed over.
        sequence_hashes: Of the blocks.
    """

    type: str
    sequence_hashes: list[int] = []


class KvLoad(msgspec.Struct, omit_defaults=True, frozen=True):
    """The load of a worker; see :class:`dynamo_tasks.router.predicted.RoutingLoad`."""

    prefill_tokens: int = 0
    active_blocks: int = 0
    active_requests: int = 0
    total_blocks: int = 0


class KvBatch(msgspec.Struct, omit_defaults=True):
    """A batch.

    Attributes:
        worker_id: The instance, in hex.
        event_id: Its number.
        events: The changes.
        load: The worker's load when it was sent.
        taken: Ids of the requests that have reached the worker since the last batch.
        snapshot: Batches of the same snapshot that follow; ``None`` = it is none.
        first: The snapshot begins with it.
    """

    worker_id: str
    event_id: int
    events: list[KvEvent] = []
    load: KvLoad | None = None
    taken: list[str] = []
    snapshot: int | None = None
    first: bool = False

    @property
    def worker(self) -> int:
        """The lease id of the instance."""
        return int(self.worker_id, 16)

    @classmethod
    def read(cls, payload: Any) -> KvBatch:
        """Read an event of the topic.

        Raises:
            ProtocolError: it is something else.
        """
        try:
            batch = msgspec.convert(payload, cls)
            batch.worker  # noqa: B018 - is it a number?
        except UNREADABLE as exc:
            raise ProtocolError(f"a batch of KV events cannot be read: {exc}") from exc
        return batch
