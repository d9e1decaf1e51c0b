"""The context in which a worker process runs requests: its lease, ledger, writer, and handlers."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from dynamo_tasks.errors import ProtocolError, ServerUnavailableError, UnknownEndpointError
from dynamo_tasks.observe import metrics
from dynamo_tasks.planner import LatencyCounts
from dynamo_tasks.protocol.events import UNREADABLE
from dynamo_tasks.queue.broker.late import LateBinding
from dynamo_tasks.queue.execution.preemption import Preemption
from dynamo_tasks.queue.execution.unclaimed import UnclaimedMessages
from dynamo_tasks.sdk.endpoints.handler import EndpointHandler
from dynamo_tasks.store.lanes.verbs import RequestVerbs
from dynamo_tasks.store.ledger.ledger import Attempt, Ledger
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.streams.open_stream import DEFAULT_CAP, OpenStream
from dynamo_tasks.store.streams.writer import Writer

__all__ = ["LaneContext", "RequestCommand", "WorkerContext"]

T = TypeVar("T")
_KEEP_EARLY = 5.0
_MOST_EARLY, _MOST_EACH = 256, 8
"""Requests for which commands are kept before they begin, and commands that are kept for each: the last ones."""
_RETRY = 0.2
_KNOWN = (b"readers ", b"abort ")


class RequestCommand(NamedTuple):
    """A command on an instance's alive channel: ``<op> <id> <epoch> <argument>``."""

    op: str
    request_id: str
    epoch: int
    argument: str

    @classmethod
    def parse(cls, payload: bytes) -> RequestCommand:
        """Read one.

        Raises:
            ProtocolError: it is none.
        """
        try:
            op, request_id, epoch, *rest = payload.decode().split(" ", 3)
            return cls(op, request_id, int(epoch or 0), rest[0] if rest else "")
        except UNREADABLE as exc:
            raise ProtocolError(f"a command cannot be read: {exc}") from exc


class Running(Protocol):
    """An execution, as the worker knows it."""

    def on_command(self, command: RequestCommand) -> None:
        """Take a command."""


class LaneContext:
    """The store, ledger and writer that requests of one lane run with.

    Attributes:
        number: Of the lane, from 1.
        store: Its server.
        ledger: Its requests.
        writer: This process's writer of its streams.
        takes: Whether messages may be taken there: the instance is known there.
        on_takes: Called when that has changed.
    """

    def __init__(self, number: int, store: Store):
        self.number = number
        self.store = store
        self.ledger = Ledger(store)
        self.writer = Writer(store)
        self.takes = False
        self.on_takes: Callable[[], None] = lambda: None


class WorkerContext:
    """One per worker process.

    Args:
        store: Of the first lane.
        lease: Of the instance.
        handlers: Of its endpoints, by their names.
        stream_cap: Bytes that a request's log may have.
        further: Servers of the other lanes.
        requests: The requests of all lanes, where there are several.
        find: Tells the namespace of a request on any lane, for the same.

    Attributes:
        first: The first lane.
        further: The others; most deployments have none.
        homes: Lanes of the requests that are here, as far as it is not the first one.
        on_engine_died: Called when an endpoint found its engine dead; before its request is requeued.
        preemption: The attempts that may be released for others.
        late: Takes requests that wait for late binding; ``None`` = none does.
        on_room: Called when there is room for them again.
        tokens: Tokens that were produced here.
        taken: Attempts that have begun here.
        waits: Times in the queue of the requests that have begun here at their first attempt.
    """

    def __init__(
        self, store: Store, lease: int, handlers: dict[str, EndpointHandler], *, stream_cap: int = DEFAULT_CAP,
        further: Sequence[Store] = (), requests: RequestVerbs | None = None,
        find: Callable[[str], Awaitable[str]] | None = None,
    ):  # fmt: skip
        self.store = store
        self.lease = lease
        self.handlers = handlers
        self.stream_cap = stream_cap
        self.first = LaneContext(1, store)
        self.further = [LaneContext(number, one) for number, one in enumerate(further, 2)]
        self.homes: dict[str, LaneContext] = {}
        self.unclaimed = UnclaimedMessages(requests or self.first.ledger, find or self._find)
        self.preemption = Preemption()
        self.late: LateBinding | None = None
        self.on_room: Callable[[], None] = lambda: None
        self.tokens = self.taken = 0
        self.waits = LatencyCounts()
        self._in_flight = metrics.gauge("requests_in_flight", endpoint="all")
        self._loop: asyncio.AbstractEventLoop | None = None
        self.on_engine_died: Callable[[str], None] = lambda reason: None
        self._running: dict[str, tuple[Running, Attempt, OpenStream]] = {}
        self._tails: set[str] = set()
        self._early: dict[str, tuple[float, list[RequestCommand]]] = {}

    async def _find(self, request_id: str) -> str:
        return await self.store.find(request_id)

    def lane(self, request_id: str) -> LaneContext:
        """The lane of a request whose message is here."""
        return self.homes.get(request_id, self.first) if self.homes else self.first

    async def start(self) -> None:
        """Connect the writer of the first lane."""
        self._loop = asyncio.get_running_loop()
        await self.first.writer.start()

    async def close(self) -> None:
        """Close the writers; what still runs is lost to its lease."""
        for lane in (self.first, *self.further):
            await lane.writer.close()

    def aside(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the event loop for a thread of this process, and wait for it.

        Raises:
            RuntimeError: it is the loop's own thread.
        """
        if self._loop is None or threading.current_thread() is threading.main_thread():
            work.close()
            raise RuntimeError("an endpoint is called as a function on the event loop; there it is awaited")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def late_by_now(self) -> LateBinding | None:
        """``late``, asked at each pop: the worker registers after its channel has begun, and may do so again."""
        return self.late

    @staticmethod
    def nonce() -> str:
        """A nonce for one claim."""
        return secrets.token_hex(8)

    def handler(self, task_name: str) -> EndpointHandler:
        """The handler of an endpoint.

        Raises:
            UnknownEndpointError: this process does not serve it; lists what it serves.
        """
        try:
            return self.handlers[task_name]
        except KeyError:
            raise UnknownEndpointError(
                f"this worker does not serve {task_name!r}; it serves: {', '.join(sorted(self.handlers))}"
            ) from None

    @property
    def in_flight(self) -> int:
        """Requests that run now."""
        return len(self._running)

    def runs(self, request_id: str) -> bool:
        """Return whether a request runs here, or its Celery completion does."""
        return request_id in self._running or request_id in self._tails

    def running_ids(self) -> list[str]:
        """Ids of the requests that run now, or whose Celery completion does."""
        return [*self._running, *self._tails]

    @staticmethod
    async def settle(ledger: Ledger, namespace: str, request_id: str) -> None:
        """Note that Celery's completion is done; asked again until Redis answers."""
        while True:
            try:
                return await ledger.settle(namespace, request_id)
            except ServerUnavailableError:
                await asyncio.sleep(_RETRY)

    def enter(self, execution: Running, attempt: Attempt, stream: OpenStream) -> None:
        """An attempt begins; commands that came before it are carried out."""
        self._running[attempt.id] = (execution, attempt, stream)
        self.taken += 1
        if attempt.number == 1:
            self.waits.add(attempt.waited)
        self._in_flight.set(len(self._running))
        for command in self._early.pop(attempt.id, (0.0, []))[1]:
            self._apply(command)
        if self.preemption.offers:
            self.preemption.arrived()

    def enter_completion(self, request_id: str) -> None:
        """Only Celery's completion of a request is run (again)."""
        self._tails.add(request_id)

    def leave_completion(self, request_id: str) -> None:
        """It is done."""
        self._tails.discard(request_id)

    def leave(self, execution: Running, stream: OpenStream) -> None:
        """An attempt is over."""
        current = self._running.get(stream.attempt.id)
        # A request may come back to the worker that gave it away, before the earlier attempt has left.
        if current is not None and current[0] is execution:
            del self._running[stream.attempt.id]
        self._in_flight.set(len(self._running))

    def on_command(self, channel: bytes, payload: bytes) -> None:
        """A command arrived on the alive channel."""
        if not payload.startswith(_KNOWN):
            return  # of a newer peer
        command = RequestCommand.parse(payload)
        if command.request_id in self._running:
            self._apply(command)
            return
        now = asyncio.get_running_loop().time()
        self._early = {key: value for key, value in self._early.items() if value[0] > now}
        _, earlier = self._early.pop(command.request_id, (0.0, []))
        if len(self._early) >= _MOST_EARLY:
            del self._early[next(iter(self._early))]  # the one that came first
        # It may be for a claim whose reply is on its way to us: others hear of a claim as soon as we do.
        self._early[command.request_id] = (now + _KEEP_EARLY, [*earlier[1 - _MOST_EACH :], command])

    def _apply(self, command: RequestCommand) -> None:
        execution, attempt, stream = self._running[command.request_id]
        if command.epoch != attempt.epoch:  # it was sent to another attempt at the same request
            return
        if command.op == "readers":
            stream.set_readers(self.store.keys(attempt.namespace).readers(command.argument))
        else:
            execution.on_command(command)
