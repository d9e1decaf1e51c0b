"""The channel of a worker: it takes messages on the event loop, and settles what was taken over earlier connections.

Messages come from a :class:`~dynamo_tasks.queue.broker.puller.Puller`. Those of endpoints are acknowledged in memory
only: whether they are to run is the ledger's decision.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps

from dynamo_tasks.config.host.tls import with_options
from dynamo_tasks.errors import ServerRefusedError
from dynamo_tasks.observe import metrics
from dynamo_tasks.observe.log import event
from dynamo_tasks.queue import greenlets
from dynamo_tasks.queue.broker.checked import CheckedChannel
from dynamo_tasks.queue.broker.consumer_gate import ConsumerGate
from dynamo_tasks.queue.broker.envelope import HEADER
from dynamo_tasks.queue.broker.hub import AsyncioHub
from dynamo_tasks.queue.broker.late import LateBinding
from dynamo_tasks.queue.broker.message import BrokerMessage, MalformedMessageError, decode
from dynamo_tasks.queue.broker.puller import Puller, SlotTurns
from dynamo_tasks.store.redis.address import Address
from dynamo_tasks.store.redis.containment import contained

__all__ = ["PullingChannel"]

_MARK = f'"{HEADER}"'.encode()
"""Stands in each message of an endpoint, so that it need not be decoded to be distinguished from others."""


class PullingChannel(CheckedChannel):
    """A channel whose messages come by pops of their own, one connection for all queues."""

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

    turns: SlotTurns | None = None
    """Of the pullers of all lanes, where there are several."""

    _puller: Puller | None = None
    _hub: AsyncioHub | None = None
    _calling_back: asyncio.Future[None] | None = None

    def pull(self, hub: AsyncioHub) -> None:
        """Take messages on the event loop; called at every tick while slots are free."""
        if self._puller is None:
            self._hub = hub
            self._puller = Puller(
                self._address(),
                queues=self._queue_keys, free=self._free_slots, allowance=self._allowed, deliver=self.arrived,
                late=lambda: self.late(), turns=self.turns,
                name=self.client_name or "dynamo-tasks:consumer",
            )  # fmt: skip
            if self.turns is not None:
                self.turns.add(1, self._puller)
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
        if self.turns is None:
            self._puller.wake()
        else:
            self.turns.wake()
        if self._puller.is_outdated and (self._calling_back is None or self._calling_back.done()):
            self.interrupt()

    async def arrived(self, raws: list[bytes], key: str) -> None:
        """Take the messages of one pop, or put them back where their queue is not consumed any more."""
        queue = key[len(self.global_keyprefix) :]
        # Who runs an endpoint's message, the ledger knows from its claim on; of other ones there is only kombu's note.
        untracked = [raw for raw in raws if _MARK not in raw]
        noted: dict[bytes, str] = {}
        if untracked and self._takes(queue):
            noted = await greenlets.run_yielding(self._note, untracked)
        # Asked again: the notes took a round trip, in which the queue may have been cancelled, or the channel closed.
        if self._takes(queue):
            for raw in raws:
                self._take(raw, queue)
            return
        await greenlets.run_yielding(self._put_back, queue, raws, noted)

    def _takes(self, queue: str) -> bool:
        return not (self.closed or self.consumer_gate.paused) and queue in self.connection._callbacks

    def _note(self, raws: list[bytes]) -> dict[bytes, str]:
        """Note messages; returns the tags of those that are noted."""
        messages = {}
        for raw in raws:
            with contextlib.suppress(MalformedMessageError):
                messages[raw] = BrokerMessage(decode(raw), channel=self)._raw
        # Where Redis takes no notes, or is away, they run without.
        with contextlib.suppress(ServerRefusedError, *self.connection_errors):
            return dict(zip(messages, self.qos.note(list(messages.values())), strict=True))
        return {}

    def _put_back(self, queue: str, raws: list[bytes], noted: dict[bytes, str]) -> None:
        """Put messages to the front of their queue, the first one last."""
        for raw in reversed(raws):
            if raw in noted:
                # Together with its note: the next connection restores what is noted, too, and one of the two finds it.
                self.qos.restore_by_tag(noted[raw], leftmost=False)
            else:
                self._push_back(queue, raw)

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
            # Celery's loop waits for sockets, and this message came by none of them.
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
