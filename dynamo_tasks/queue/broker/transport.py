"""kombu's Redis transport with four differences.

* A message of one of our endpoints is published by the ledger's ``submit`` script: record and message are
  written together, or neither; a publish that is sent twice is one request; ETA and countdown wait in the
  ledger, not in a worker's memory.
* On the event loop of a worker, messages come from a :class:`~dynamo_tasks.queue.broker.puller.Puller`. Those of
  endpoints are acknowledged in memory only: whether they are to run is the ledger's decision.
* Each channel keeps its client objects; kombu builds one for every operation.
* Nothing unacknowledged is restored when a connection breaks: the ledger knows who owns what, and the
  restore of a broken channel ends the worker ("Unrecoverable error").
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps
from kombu.utils.objects import cached_property

from dynamo_tasks.config.host.tls import with_options
from dynamo_tasks.errors import ServerRefusedError
from dynamo_tasks.observe import metrics
from dynamo_tasks.observe.log import event
from dynamo_tasks.queue.broker import greenlets
from dynamo_tasks.queue.broker.checked import CheckedChannel
from dynamo_tasks.queue.broker.consumer_gate import ConsumerGate
from dynamo_tasks.queue.broker.envelope import HEADER, release_of, request_of
from dynamo_tasks.queue.broker.hub import AsyncioHub
from dynamo_tasks.queue.broker.late import LateBinding
from dynamo_tasks.queue.broker.message import BrokerMessage, MalformedMessageError, QoS, decode
from dynamo_tasks.queue.broker.puller import Poller, Puller
from dynamo_tasks.queue.sockets import yielding
from dynamo_tasks.store.ledger.sync import SyncLedger
from dynamo_tasks.store.queue_keys import PRIORITY_SEPARATOR, PRIORITY_STEPS, WAIT_QUEUE_STEP
from dynamo_tasks.store.redis.address import Address
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.parsing import Parser

__all__ = ["Channel", "SentinelTransport", "Transport", "submitted_as"]

_MARK = f'"{HEADER}"'.encode()
"""Stands in each message of an endpoint, so that it need not be decoded to be distinguished from others."""

submitted_as: ContextVar[str | None] = ContextVar("dynamo_submitted_as", default=None)
"""Id of the request that the last publish in this context stands for.

Empty while a call of an endpoint is being published, ``None`` otherwise.
"""


class Channel(CheckedChannel):
    """A channel that publishes endpoint calls through the ledger."""

    Message = BrokerMessage
    QoS = QoS
    do_restore = False
    sep = PRIORITY_SEPARATOR

    carried: Callable[[], int] = staticmethod(lambda: 0)
    """Number of tasks that run on messages of an earlier connection: they fill slots of this one."""

    allowance: Callable[[int], tuple[int, int]] = staticmethod(lambda over: (0, 0))
    """Messages that may be taken although no slot is free, and the priority step below which their lists are; asked
    with the number of messages that are here without a slot."""

    acknowledged_late: Callable[[str, bool], None] = staticmethod(lambda tag, requeue: None)
    """Takes the tags (and whether to requeue) of messages that are done after this channel was closed."""

    late: Callable[[], LateBinding | None] = staticmethod(lambda: None)
    """What takes requests that wait for late binding, where this worker does."""

    consumer_gate = ConsumerGate()
    """The gate that says whether this process takes messages at all."""

    _is_made = False
    _shared_client: Any = None
    _ledger: SyncLedger | None = None
    _puller: Puller | None = None
    _hub: AsyncioHub | None = None
    _calling_back: asyncio.Future[None] | None = None

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
        if "release" in header:
            self.ledger.release(**release_of(message, dumps))
        else:
            submitted_as.set(self.ledger.submit(request_of(message, key, self.priority(priority), dumps)))

    def _purge(self, queue: str) -> int:
        """kombu callback: the messages go, and end the requests that they stand for."""
        ended = self.ledger.discard(f"{self.global_keyprefix}{queue}")
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

    def pull(self, hub: AsyncioHub) -> None:
        """Take messages on the event loop; called at every tick while slots are free."""
        if self._puller is None:
            self._hub = hub
            self._puller = Puller(
                self._address(),
                queues=self._queue_keys, free=self._free_slots, allowance=self._allowed, deliver=self._arrived,
                late=lambda: self.late(),
                name=self.client_name or "dynamo-tasks:consumer",
            )  # fmt: skip
        self.proceed()

    async def takes(self, within: float) -> bool:
        """Wait for the connection on which messages come; returns whether it is there."""
        assert self._puller is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._puller.connected.wait(), within)
        return self._puller.connected.is_set()

    def _address(self) -> Address:
        client = self.connection.client
        url = client.as_uri(include_password=True)
        if client.transport_cls == "sentinel":
            sentinels = with_options(";".join(client.alt) or url, client.ssl)
            return Address.parse(sentinels, client.transport_options)
        # The URL that kombu gives back is without its query.
        return Address.parse(with_options(url, client.ssl))

    def _receive(self) -> Any:
        """kombu's, which waits on the loop for a message that was read at an earlier call of the same readiness."""
        connection = self.subclient.connection
        if connection is not None and not connection.can_read(timeout=0):
            return False
        return super()._receive()

    def _queue_keys(self) -> list[str]:
        return [] if self.closed else [f"{self.global_keyprefix}{queue}" for queue in self.active_queues]

    def _free_slots(self) -> int:
        if self.consumer_gate.paused:
            return 0
        return max(0, int(self.qos.can_consume_max_estimate() or 0) - self.carried())

    def _allowed(self) -> tuple[int, int]:
        qos = self.qos
        if self.consumer_gate.paused or not qos.prefetch_count:
            return 0, 0
        return self.allowance(len(qos._delivered) - len(qos._dirty) + self.carried() - qos.prefetch_count)

    def interrupt(self) -> None:
        """Call a pop back that is in flight."""
        if self._puller is not None and self._puller.blocked_as is not None:
            self._calling_back = asyncio.ensure_future(self._puller.call_back(self._unblock_quietly))

    async def rest(self) -> None:
        """Wait for what was popped, and take no more: what is requeued next must not be popped here again."""
        if self._puller is not None:
            await self._puller.delivered()
        self.consumer_gate.pause()
        if self._calling_back is not None:
            await self._calling_back

    def proceed(self) -> None:
        """Pop again, if slots are free."""
        if self._puller is None:
            return
        self._puller.wake()
        if self._puller.is_outdated and (self._calling_back is None or self._calling_back.done()):
            self.interrupt()

    async def _arrived(self, raws: list[bytes], key: str) -> None:
        """Take the messages of one pop, or put them back where their queue is not consumed any more."""
        queue = key[len(self.global_keyprefix) :]
        # Who runs an endpoint's message, the ledger knows from its claim on; of other ones there is only kombu's note.
        untracked = [raw for raw in raws if _MARK not in raw]
        noted = []
        if untracked and self._takes(queue):
            noted = await greenlets.run_yielding(self._note, untracked)
        # Asked again: the notes took a round trip, in which the queue may have been cancelled, or the channel closed.
        if self._takes(queue):
            for raw in raws:
                self._take(raw, queue)
            return
        # To the front of its queue: the first one last.
        await greenlets.run_yielding(self._push_back, queue, *reversed(raws))
        await greenlets.run_yielding(self.settle_late, dict.fromkeys(noted, False))

    def _takes(self, queue: str) -> bool:
        return not (self.closed or self.consumer_gate.paused) and queue in self.connection._callbacks

    def _note(self, raws: list[bytes]) -> list[str]:
        messages = []
        for raw in raws:
            with contextlib.suppress(MalformedMessageError):
                messages.append(BrokerMessage(decode(raw), channel=self)._raw)
        # Where Redis takes no notes, or is away, they run without.
        with contextlib.suppress(ServerRefusedError, *self.connection_errors):
            tags: list[str] = self.qos.note(messages)
            return tags
        return []

    def _take(self, raw: bytes, queue: str) -> None:
        assert self._hub is not None
        try:
            self.connection._deliver(decode(raw), queue)
        except MalformedMessageError as exc:
            self._drop(raw, queue, exc)
        except self.connection_errors as exc:
            # kombu counts KeyError in; what is wrong with the connection is an OSError or an error of redis-py.
            if isinstance(exc, KeyError):
                self._drop(raw, queue, exc)
            else:
                self._hub.fail(exc)  # raised inside of the consumer's loop, which connects again
        except Exception as exc:  # noqa: BLE001 - Celery trusts messages; one that it trips over must not end the worker
            self._drop(raw, queue, exc)
        else:
            self._hub.wake()

    def _drop(self, raw: bytes, queue: str, exc: Exception) -> None:
        """Forget a message that nobody can read, wherever it is noted."""
        text = f"{type(exc).__name__}: {exc}"
        metrics.counter("input_refused_total", where="queue").inc()
        event("message.malformed", queue=queue, error=text, raw=raw[:200].decode(errors="replace"))
        with contextlib.suppress(MalformedMessageError):
            tag = BrokerMessage(decode(raw), channel=self).delivery_tag
            if tag in self.qos._delivered:
                self.qos.ack(tag)

    def _push_back(self, key: str, *raws: bytes | str) -> None:
        """Put messages to the front of a queue; its key is without the prefix, which the client adds."""
        with self.conn_or_acquire() as client:
            client.rpush(key, *raws)

    def _update_queue_cycle(self) -> None:
        super()._update_queue_cycle()
        if self._puller is not None and self._puller.blocked_as is not None:
            self._unblock(self._puller.blocked_as)

    def _unblock(self, connection_id: int) -> None:
        with self.conn_or_acquire() as client:
            client.client_unblock(connection_id)

    def settle_late(self, tags: dict[str, bool]) -> None:
        """Acknowledge messages, or requeue them where that is asked for; some may have come over an earlier channel."""
        for tag, requeue in tags.items():
            if requeue:
                self.qos.restore_by_tag(tag, leftmost=False)
        done = [tag for tag, requeue in tags.items() if not requeue]
        if done:
            with self.conn_or_acquire() as client:
                client.pipeline().zrem(self.unacked_index_key, *done).hdel(self.unacked_key, *done).execute()

    def restore_unknown(self, keep: set[str]) -> None:
        """Requeue what this process had fetched over an earlier connection and never started.

        Args:
            keep: Delivery tags of the messages whose tasks run or wait in the pool.
        """
        with self.conn_or_acquire() as client:
            tags = [bytes_to_str(tag) for tag in client.zrange(self.unacked_index_key, 0, -1)]
        for tag in reversed(tags):  # each goes to the front: the oldest, as the last one, is taken first
            if tag not in keep and tag not in self.qos._delivered:
                with contained("recovery", "a message that was fetched"):
                    self.qos.restore_by_tag(tag, leftmost=False)

    def requeue(self, tags: list[str]) -> None:
        """Put fetched messages that were not started back to the front of their queues, oldest first."""
        for tag in reversed(tags):
            message = self.qos._delivered.get(tag)
            if message is None:
                continue
            if HEADER in message.headers:
                priority = self._get_message_priority(message._raw, reverse=False)
                key = self._q_for_pri(message.delivery_info["routing_key"], priority)
                self._push_back(key, dumps(message._raw))
            else:
                self.qos.restore_by_tag(tag, leftmost=False)
            self.qos._delivered.pop(tag, None)

    def close(self) -> None:
        """Close the channel; a pop that is in flight is called back first."""
        puller, self._puller = self._puller, None
        # What it has popped is in no list and in no note: a pop that is dropped would lose messages.
        if puller is not None:
            stopping = puller.stop(self._unblock_quietly)
            if greenlets.may_await():
                greenlets.await_(stopping)
            else:
                self._stopping = asyncio.ensure_future(stopping)
        super().close()

    def _unblock_quietly(self, connection_id: int) -> None:
        with contextlib.suppress(*self.connection_errors):
            self._unblock(connection_id)


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
