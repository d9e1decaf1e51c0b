"""Messages of further lanes in a worker (docs/lanes.md).

The first lane is Celery's broker. All others bring messages of endpoints alone: they need no connection of kombu's, no
notes of what is not acknowledged, and go on while the first lane is away. Who runs what, each lane's ledger knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kombu.serialization import prepare_accept_content
from kombu.transport.virtual import Base64
from kombu.utils.json import dumps

from dynamo_tasks.observe import metrics
from dynamo_tasks.observe.log import event
from dynamo_tasks.queue.broker.message import BrokerMessage, MalformedMessageError, decode
from dynamo_tasks.queue.broker.puller import Puller
from dynamo_tasks.queue.execution.context import LaneContext, WorkerContext
from dynamo_tasks.queue.execution.slots import SharedSlots
from dynamo_tasks.store.queue_keys import consumer_name, priority_suffix

__all__ = ["LaneMessages", "LaneSource"]


class _Held:
    """A message that is here."""

    __slots__ = ("begun", "message", "request_id")

    def __init__(self, request_id: str, message: Any):
        self.request_id = request_id
        self.message = message
        self.begun = False


class LaneSource:
    """The messages of one lane; what kombu's messages take for their channel.

    Args:
        lane: The lane.
        owner: Of all further lanes.
    """

    no_ack_consumers = None

    def __init__(self, lane: LaneContext, owner: LaneMessages):
        self.lane = lane
        self._owner = owner
        self._base64 = Base64()
        self._held: dict[str, _Held] = {}
        self._calling_back: asyncio.Future[None] | None = None
        self.puller = Puller(
            lane.store.address, queues=self._queues, free=owner.free, allowance=owner.allowance,
            deliver=self._deliver, turns=owner.slots, name=consumer_name(owner.context.lease),
        )  # fmt: skip

    def _queues(self) -> list[str]:
        return self._owner.queues() if self.lane.takes else []

    async def _deliver(self, raws: list[bytes], key: str) -> None:
        if key not in self._queues():
            # It is not consumed any more; to the front of the queue, the first one last.
            self.lane.store.commands.post("RPUSH", key, *reversed(raws))
            return
        for raw in raws:
            try:
                self._take(BrokerMessage(decode(raw), channel=self))
            except Exception as exc:  # noqa: BLE001 - Celery trusts messages; one that it trips over must not end the rest
                metrics.counter("input_refused_total", where="queue").inc()
                text = f"{type(exc).__name__}: {exc}"
                event("message.malformed", queue=key, error=text, raw=raw[:200].decode(errors="replace"))

    def _take(self, message: Any) -> None:
        request_id = (message.headers or {}).get("id")
        if not request_id:
            raise MalformedMessageError("it is no message of an endpoint, and nobody else's is taken here")
        held = _Held(request_id, message)
        self._held[message.delivery_tag] = held
        self._owner.enter(held, self.lane)
        message.accept = self._owner.accept
        try:
            self._owner.handle(message)
        except BaseException:
            self._drop(message.delivery_tag)
            raise

    # -- what a message asks of its channel ---------------------------------------------------------

    def decode_body(self, body: Any, encoding: str | None = None) -> Any:
        """kombu callback."""
        return self._base64.decode(body) if encoding == "base64" else body

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """kombu callback: a message is done."""
        self._drop(delivery_tag)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """kombu callback: a message is not wanted."""
        held = self._drop(delivery_tag)
        if held is not None and requeue:
            self.lane.store.commands.post("RPUSH", self._key(held.message), dumps(held.message._raw))

    def _drop(self, tag: str) -> _Held | None:
        held = self._held.pop(tag, None)
        if held is not None and not held.begun:
            self._owner.leave(held)
        return held

    def _key(self, message: Any) -> str:
        name, priority = message.delivery_info["routing_key"], message.properties.get("priority") or 0
        return f"{self.lane.store.prefix}{name}{priority_suffix(priority)}"

    # -- life ---------------------------------------------------------------------------------------

    def look(self) -> None:
        """Call a pop back that leaves out lists which it need not, or asks for too much."""
        if self.puller.is_outdated and (self._calling_back is None or self._calling_back.done()):
            self._calling_back = asyncio.ensure_future(self.puller.call_back(self._unblock))

    async def rest(self) -> None:
        """Wait for what was popped, and for the pop in flight; the gate is closed."""
        await self.puller.delivered()
        await self.puller.call_back(self._unblock)

    def _unblock(self, connection_id: int) -> None:
        self.lane.store.commands.post("CLIENT", "UNBLOCK", connection_id)

    def requeue_waiting(self) -> None:
        """Put back what has not begun."""
        self.requeue({tag for tag, held in self._held.items() if held.begun})

    def requeue(self, running: set[str]) -> None:
        """Put messages back to the front of their queues, oldest first, but of those that run.

        Where the lane is away, its ledger knows that they wait in no queue.
        """
        for tag, held in reversed(list(self._held.items())):
            if tag not in running:
                self.lane.store.commands.post("RPUSH", self._key(held.message), dumps(held.message._raw))
                self._drop(tag)

    async def stop(self) -> None:
        """End."""
        await self.puller.stop(self._unblock)


class LaneMessages:
    """The messages of all further lanes, for one worker.

    Args:
        consumer: Celery's.
        context: Of the worker process.

    Attributes:
        slots: Of the worker, for all lanes.
        accept: What bodies may be.
        handle: Celery's handler of messages.
    """

    def __init__(self, consumer: Any, context: WorkerContext):
        self.context = context
        self.accept = prepare_accept_content(consumer.app.conf.accept_content)
        self.slots = SharedSlots(1 + len(context.further), consumer.pool)
        self.handle: Callable[[Any], None] = consumer.create_task_handler()
        self._consumer = consumer
        self._gate = consumer.app.consumer_gate
        self._by_id: dict[str, list[_Held]] = {}
        self.sources = [LaneSource(lane, self) for lane in context.further]
        for source in self.sources:
            self.slots.add(source.lane.number, source.puller)
            source.lane.on_takes = self.slots.wake
        consumer.pool.followed = self
        self._gate.also(self)

    # -- slots --------------------------------------------------------------------------------------

    def _over(self) -> int:
        """Slots that are taken beyond those that there are; negative = there is room."""
        task_consumer = self._consumer.task_consumer
        channel = None if task_consumer is None else task_consumer.channel
        here = (
            0 if channel is None or channel.closed else len(channel.qos._delivered) - len(channel.qos._dirty)
        )
        return self.slots.taken(here) - self.slots.slots

    def free(self) -> int:
        """Slots that are free."""
        return 0 if self._gate.paused else max(0, -self._over())

    def allowance(self) -> tuple[int, int]:
        """Messages that may be taken although no slot is free; see :class:`Preemption`."""
        if self._gate.paused:
            return 0, 0
        allowed: tuple[int, int] = self._consumer.pool.preemption.allowance(self._over())
        return allowed

    def queues(self) -> list[str]:
        """Keys of the queues of endpoints that are consumed."""
        prefix, consumed = self.context.store.prefix, self._consumer.app.amqp.queues.consume_from
        return [f"{prefix}{name}" for name in consumed if "|" in name]

    def enter(self, held: _Held, lane: LaneContext) -> None:
        """A message came."""
        self._by_id.setdefault(held.request_id, []).append(held)
        self.context.homes[held.request_id] = lane
        self.slots.held += 1

    def begins(self, request_id: str) -> None:
        """The pool begins to run a request, of whatever lane."""
        for held in self._by_id.get(request_id, ()):
            if not held.begun:
                held.begun = True
                self.slots.begun += 1
                return

    def ended(self, request_id: str) -> None:
        """The pool has ended a request, of whatever lane: there is room."""
        for held in self._by_id.get(request_id, ()):
            if held.begun:
                self.slots.begun -= 1
                self.leave(held)
                break
        self.slots.wake()

    def leave(self, held: _Held) -> None:
        """A message is here no more."""
        others = self._by_id[held.request_id]
        others.remove(held)
        self.slots.held -= 1
        if not others:
            del self._by_id[held.request_id], self.context.homes[held.request_id]

    # -- the gate -----------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Leave what comes now to others: with a closed gate, pops in flight give back what they bring."""

    def proceed(self) -> None:
        """Pop again, if slots are free."""
        self.slots.wake()
        for source in self.sources:
            source.look()

    # -- life ---------------------------------------------------------------------------------------

    async def rest(self) -> None:
        """Wait for what was popped."""
        await asyncio.gather(*(source.rest() for source in self.sources))

    def reconnected(self) -> None:
        """Celery has a new connection, and forgot what waited for a rate limit: it goes back to its queue."""
        for source in self.sources:
            source.requeue_waiting()

    def requeue(self, running: set[str]) -> None:
        """Put messages back to the front of their queues; see :meth:`LaneSource.requeue`."""
        for source in self.sources:
            source.requeue(running)

    async def stop(self) -> None:
        """End: nothing is taken any more."""
        await asyncio.gather(*(source.stop() for source in self.sources))
