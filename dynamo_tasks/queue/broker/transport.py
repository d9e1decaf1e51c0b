"""kombu's Redis transport with four differences.

* A message of one of our endpoints is published by the ledger's ``submit`` script: record and message are
  written together, or neither; a publish that is sent twice is one request; ETA and countdown wait in the
  ledger, not in a worker's memory.
* On the event loop of a worker, messages come from a puller (:mod:`dynamo_tasks.queue.broker.pulling`).
* Each channel keeps its client objects; kombu builds one for every operation.
* Nothing unacknowledged is restored when a connection breaks: the ledger knows who owns what, and the
  restore of a broken channel ends the worker ("Unrecoverable error").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps
from kombu.utils.objects import cached_property

from dynamo_tasks.queue import greenlets
from dynamo_tasks.queue.broker.envelope import HEADER, release_of, request_of
from dynamo_tasks.queue.broker.hub import AsyncioHub
from dynamo_tasks.queue.broker.message import BrokerMessage, QoS
from dynamo_tasks.queue.broker.puller import Poller
from dynamo_tasks.queue.broker.pulling import PullingChannel
from dynamo_tasks.queue.sockets import yielding
from dynamo_tasks.store.ledger.submission import NewRequest
from dynamo_tasks.store.ledger.sync import SyncLedger
from dynamo_tasks.store.queue_keys import PRIORITY_SEPARATOR, PRIORITY_STEPS, WAIT_QUEUE_STEP
from dynamo_tasks.store.redis.parsing import Parser

__all__ = ["Channel", "SentinelTransport", "Transport", "submitted_as"]

submitted_as: ContextVar[str | None] = ContextVar("dynamo_submitted_as", default=None)
"""Id of the request that the last publish in this context stands for.

Empty while a call of an endpoint is being published, ``None`` otherwise.
"""


class Channel(PullingChannel):
    """A channel that publishes endpoint calls through the ledger, and takes messages as its base does."""

    Message = BrokerMessage
    QoS = QoS
    do_restore = False
    sep = PRIORITY_SEPARATOR

    _is_made = False
    _shared_client: Any = None
    _ledger: SyncLedger | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._is_made = True
        self.__dict__.pop("client", None)
        # What may be popped; the option has one step more, for those who only count.
        self.priority_steps = list(PRIORITY_STEPS)

    @cached_property  # type: ignore[untyped-decorator]
    def client(self) -> Any:
        """kombu's client for commands that block; in ``__init__``, which only pings Redis, any other."""
        return self._create_client(asynchronous=self._is_made)

    def _connparams(self, *args: Any, **kwargs: Any) -> Any:
        # Neither HELLO nor the name of the library: three round trips of each connection.
        ours = {"parser_class": Parser, "driver_info": None, "protocol": 2}
        theirs = super()._connparams(*args, **kwargs)
        return {**theirs, **ours, "connection_class": yielding(theirs["connection_class"], greenlets.yields)}

    def _size(self, queue: str) -> int:
        """Messages of a queue, with those of its wait queues."""
        return super()._size(queue) + self.length(f"{queue}{self.sep}{WAIT_QUEUE_STEP}")

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
    def own_ledger(self) -> SyncLedger:
        """The ledger's verbs on this channel's connection pool."""
        if self._ledger is None:
            db = self.pool.connection_kwargs.get("db") or 0
            self._ledger = SyncLedger(self.pool, db=int(db), prefix=self.global_keyprefix)
        return self._ledger

    @property
    def lanes(self) -> Any:
        """The :class:`~dynamo_tasks.queue.client.lanes.LanePublisher`, where there are several; else ``None``."""
        return getattr(self.connection.client, "lanes", None)

    def ledger_of(self, lane: int) -> SyncLedger:
        """The ledger of a lane."""
        lanes = self.lanes
        ledger: SyncLedger = self.own_ledger if lanes is None else lanes.ledger(self, lane)
        return ledger

    def submit(self, new: NewRequest) -> str:
        """Hand a request to the ledger of its lane."""
        lanes = self.lanes
        return self.own_ledger.submit(new) if lanes is None else str(lanes.submit(self, new))

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        header = (message.get("headers") or {}).get(HEADER)
        if header is None:
            super()._put(queue, message, **kwargs)
            return
        priority = self._get_message_priority(message, reverse=False)
        key = f"{self.global_keyprefix}{queue}"
        if "release" in header:
            self.ledger_of(header["release"][2]).release(**release_of(message, dumps))
        else:
            submitted_as.set(self.submit(request_of(message, key, self.priority(priority), dumps)))

    def _purge(self, queue: str) -> int:
        """kombu callback: the messages go, and end the requests that they stand for."""
        ledgers = [self.own_ledger] if self.lanes is None else self.lanes.ledgers(self)
        ended = sum(ledger.discard(f"{self.global_keyprefix}{queue}") for ledger in ledgers)
        return ended + int(super()._purge(queue))

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any
    ) -> None:
        """kombu callback; kombu deletes no more than what is bound."""
        passing = queue in self.auto_delete_queues
        if not (if_empty and self._size(queue)):
            super().queue_delete(queue, if_unused, if_empty, **kwargs)
            if not passing:
                self._purge(queue)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """kombu callback. What goes over pub/sub is looked up nowhere: a note of it would only outlive its process."""
        if self.typeof(exchange).type == "fanout":
            self._fanout_queues[queue] = (exchange, routing_key.replace("#", "*"))
        else:
            super()._queue_bind(exchange, routing_key, pattern, queue)

    def _refresh_bindings(self, queues: list[str]) -> None:
        super()._refresh_bindings([queue for queue in queues if queue not in self._fanout_queues])

    def _receive(self) -> Any:
        """kombu's, which waits on the loop for a message that was read at an earlier call of the same readiness."""
        connection = self.subclient.connection
        if connection is not None and not connection.can_read(timeout=0):
            return False
        return super()._receive()


class Transport(kombu_redis.Transport):  # type: ignore[misc]
    """The transport of a dynamo-tasks application."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def listen(self) -> None:
        """Subscribe to pub/sub channels before they are polled: nothing published from now on is missed."""
        for channel in list(self.cycle._channels):
            if channel.active_fanout_queues:
                channel.subclient.connection = channel.subclient.connection_pool.get_connection()
                channel._subscribe()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Celery callback."""
        if isinstance(loop, AsyncioHub):
            self.cycle.hub = loop
        super().register_with_event_loop(connection, loop)


class SentinelChannel(Channel, kombu_redis.SentinelChannel):  # type: ignore[misc]
    """The same on the master that Sentinels name."""


class SentinelTransport(Transport):
    """The transport of ``sentinel://`` brokers."""

    default_port = 26379
    Channel = SentinelChannel
