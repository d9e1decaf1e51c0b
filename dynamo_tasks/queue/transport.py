"""kombu's Redis transport with three differences.

* A message of one of our endpoints is published by the ledger's ``submit`` script: record and message are
  written together, or neither; a publish that is sent twice is one request; ETA and countdown wait in the
  ledger, not in a worker's memory.
* Each channel keeps its client objects; kombu builds one for every operation.
* Nothing unacknowledged is restored when a connection breaks: the ledger knows who owns what, and the
  restore of a broken channel ends the worker ("Unrecoverable error").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps

from dynamo_tasks.queue.envelope import HEADER, release_of, request_of
from dynamo_tasks.store.keys import PRIORITY_SEPARATOR
from dynamo_tasks.store.sync import SyncLedger

__all__ = ["Channel", "Transport"]


class Channel(kombu_redis.Channel):  # type: ignore[misc]
    """A channel that publishes endpoint calls through the ledger."""

    do_restore = False
    sep = PRIORITY_SEPARATOR

    _shared_client: Any = None
    _ledger: SyncLedger | None = None

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """A client for one operation: always the same object, on the channel's pool."""
        if client is None:
            client = self._shared_client
            if client is None:
                client = self._shared_client = self._create_client()
        yield client

    def _disconnect_pools(self) -> None:
        self._shared_client = self._ledger = None
        super()._disconnect_pools()

    @property
    def ledger(self) -> SyncLedger:
        """The ledger's verbs on this channel's connection pool."""
        if self._ledger is None:
            db = self.pool.connection_kwargs.get("db") or 0
            self._ledger = SyncLedger(self.pool, db=int(db), prefix=self.global_keyprefix)
        return self._ledger

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        header = (message.get("headers") or {}).get(HEADER)
        if header is None:
            super()._put(queue, message, **kwargs)
            return
        priority = self._get_message_priority(message, reverse=False)
        key = f"{self.global_keyprefix}{queue}"
        if "rel" in header:
            self.ledger.release(**release_of(message, dumps))
        else:
            self.ledger.submit(request_of(message, key, self.priority(priority), dumps))

    def give_back(self, tags: list[str]) -> None:
        """Put fetched messages that were not started back to the front of their queues."""
        for tag in tags:
            self.qos.restore_by_tag(tag, leftmost=False)
            self.qos._delivered.pop(tag, None)


class Transport(kombu_redis.Transport):  # type: ignore[misc]
    """The transport of a dynamo-tasks application."""

    Channel = Channel
