"""The state machine: writers, readers and a server that fail in every order.

What is real: :class:`OpenStream` (ids, freezing, realigning), :class:`Subscription` with :class:`Cursor`, and, on a
real server, the scripts. What is simulated is the network: every request and every reply is a step of its own,
and may be late, repeated or lost.

Promise: whatever happens, a reader has in the end exactly the log, or it was told ``stream_diverged``; and it is
told so only where the server forgot something.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from dynamo_tasks.errors import DynamoError, FencedError, StreamDivergedError
from dynamo_tasks.protocol.events import ZERO, End, Event, EventId, Kind
from dynamo_tasks.protocol.states import State
from dynamo_tasks.store.streams.open_stream import OpenStream
from dynamo_tasks.store.streams.subscription import Subscription
from tests.property.stream_servers import Page, Server

__all__ = ["StreamMachine"]

WRITERS, READERS = st.integers(0, 1), st.integers(0, 1)
DONE = End(State.SUCCEEDED, "stop")


@dataclass
class Flush:
    """One transaction on its way."""

    entries: list[Event]
    readers: list[str]
    top: EventId
    ends: bool
    taken: list[bool] | None = None
    end: str = ""


@dataclass
class SimulatedWriter:
    """A process that owns an attempt, or believes so."""

    lease: int
    log: OpenStream | None = None
    flight: Flush | None = None
    late: list[Flush] = field(default_factory=list)
    ending: bool = False
    synced: bool = True

    @property
    def alive(self) -> bool:
        return self.log is not None and self.log.dead is None


@dataclass
class SimulatedReader:
    """A client process with one reader."""

    channel: str
    sub: Subscription
    seen: list[Event] = field(default_factory=list)
    connected: bool = False
    attached: bool = False
    generation: int = 0
    inbox: deque[Event] = field(default_factory=deque)
    page: tuple[int, bool, int, Page] | None = None
    asked: bool = True
    error: DynamoError | None = None


class StreamMachine(RuleBasedStateMachine):
    """One request; subclasses say on which server."""

    def make_server(self) -> Server:
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.server = self.make_server()
        self.numbers = itertools.count(1)
        self.forgot = False
        self.saved: Any = self.server.snapshot()
        self.writers = [SimulatedWriter(lease) for lease in (1, 2)]
        self.clients: list[SimulatedReader] = []
        for n in range(2):
            sub = Subscription("property", "r", ZERO, on_gap=self._asked, on_close=lambda sub: None, now=0.0)
            self.clients.append(SimulatedReader(f"client{n}", sub))
        for n in range(2):
            self.join(n)
        self.claim(0)
        self.progress(0)

    def join(self, n: int) -> None:
        """What a reader does if nothing comes in between."""
        for step in (self.connect, self.attach):
            step(n)
        self.ask(n, 8)
        self.answer(n)

    @rule(n=WRITERS)
    def progress(self, n: int) -> None:
        """What a writer does if nothing comes in between: so that random runs get somewhere."""
        self.order(n)
        self.produce(n, 1)
        for step in (self.resync, self.send, self.execute, self.reply):
            step(n)
        for reader in range(2):
            self.deliver(reader, 5)

    @rule(n=WRITERS)
    def start_flush(self, n: int) -> None:
        """A transaction is on its way."""
        self.produce(n, 1)
        self.send(n)

    def _asked(self, sub: Subscription) -> None:
        for client in self.clients:
            if client.sub is sub:
                client.asked = True

    # Writers

    @rule(n=WRITERS)
    def claim(self, n: int) -> None:
        writer = self.writers[n]
        attempt = self.server.claim(writer.lease, f"nonce{next(self.numbers)}")
        if attempt is None:
            return
        if writer.flight is not None:
            writer.late.append(writer.flight)
        writer.log = OpenStream(attempt, changed=lambda log: None, on_dead=lambda reason: None)
        writer.flight, writer.ending, writer.synced = None, False, True

    @rule(n=WRITERS, count=st.integers(1, 2))
    def produce(self, n: int, count: int) -> None:
        writer = self.writers[n]
        if writer.alive and writer.log is not None and not writer.ending:
            for _ in range(count):
                writer.log.append(next(self.numbers))

    @rule(n=WRITERS)
    def end(self, n: int) -> None:
        self.writers[n].ending = True

    @rule(n=WRITERS)
    def send(self, n: int) -> None:
        writer = self.writers[n]
        log = writer.log
        if not writer.alive or log is None or writer.flight is not None or not writer.synced:
            return
        log.freeze()
        entries = [Event(EventId(log.attempt.epoch, e.seq), e.kind, e.data) for e in log.frozen]
        if entries or writer.ending:
            writer.flight = Flush(entries, list(log.readers), log.top, writer.ending)

    def _execute(self, writer: SimulatedWriter, flush: Flush) -> None:
        assert writer.log is not None
        flush.taken = self.server.flush(writer.log.attempt, flush.entries, flush.readers)
        if flush.ends:
            flush.end = self.server.finish(writer.log.attempt, flush.top, DONE)

    @rule(n=WRITERS)
    def execute(self, n: int) -> None:
        writer = self.writers[n]
        if writer.flight is not None and writer.flight.taken is None:
            self._execute(writer, writer.flight)

    @rule(n=WRITERS)
    def execute_late(self, n: int) -> None:
        """What an old connection had sent reaches the server after all."""
        writer = self.writers[n]
        if writer.late and writer.log is not None:
            flush = writer.late.pop(0)
            flush.ends = False
            epoch = flush.entries[0].id.epoch if flush.entries else 0
            if epoch == writer.log.attempt.epoch or flush.entries:
                self._execute(writer, flush)

    @rule(n=WRITERS)
    def reply(self, n: int) -> None:
        writer = self.writers[n]
        flush, log = writer.flight, writer.log
        if flush is None or flush.taken is None or log is None:
            return
        writer.flight = None
        if not writer.alive:
            return
        taken = next((i for i, ok in enumerate(flush.taken) if not ok), len(flush.taken))
        log.acknowledge(taken, 0.0)
        if taken < len(flush.taken) or flush.end == "BEHIND":
            writer.synced = False
        elif flush.end:
            log.die(FencedError())

    @rule(n=WRITERS)
    def break_writer(self, n: int) -> None:
        writer = self.writers[n]
        if writer.flight is not None:
            if writer.flight.taken is None:
                writer.late.append(writer.flight)
            writer.flight = None
        writer.synced = False

    @rule(n=WRITERS)
    def resync(self, n: int) -> None:
        writer = self.writers[n]
        log = writer.log
        if not writer.alive or writer.synced or log is None:
            return
        code, top, readers = self.server.resync(log.attempt, log.readers)
        if code == "OK" and log.realign(top, 0.0):
            log.readers = readers
            writer.synced = True
        else:
            log.die(FencedError())

    @rule(n=WRITERS)
    def order(self, n: int) -> None:
        """An order on the alive channel tells who reads."""
        log = self.writers[n].log
        if log is not None:
            log.readers = self.server.readers()

    @rule(n=WRITERS)
    def straggle(self, n: int) -> None:
        """What is on its way arrives, and what it pushes too."""
        self.execute(n)
        for reader in range(2):
            self.deliver(reader, 5)

    # Everybody else

    @rule(chance=st.integers(0, 4))
    def cancel(self, chance: int) -> None:
        if chance == 0:
            self.server.cancel()

    @rule()
    def save(self) -> None:
        """Everything up to here is safely on the server's disk."""
        self.saved = self.server.snapshot()

    @rule()
    def forget(self) -> None:
        """The server is killed and comes back without its last second."""
        self.forgot = True
        self.server.restore(self.saved)
        for n, writer in enumerate(self.writers):
            self.break_writer(n)
            writer.late.clear()
        for n in range(len(self.clients)):
            self.disconnect(n)

    # Readers; the steps of StreamReader

    @rule(n=READERS)
    def disconnect(self, n: int) -> None:
        client = self.clients[n]
        client.connected = client.attached = False
        client.inbox.clear()

    @rule(n=READERS)
    def connect(self, n: int) -> None:
        client = self.clients[n]
        if client.connected:
            return
        client.sub.lose()
        client.inbox.clear()
        self.server.subscribe(client.channel)
        client.connected, client.attached, client.asked = True, False, True
        client.generation += 1

    @rule(n=READERS)
    def attach(self, n: int) -> None:
        client = self.clients[n]
        if client.connected:
            self.server.attach(client.channel)
            client.attached = True

    @rule(n=READERS, w=WRITERS)
    def blink(self, n: int, w: int) -> None:
        """A reader is away for a moment, and just then the request is taken over."""
        self.start_flush(1 - w)
        self.disconnect(n)
        self.claim(w)
        self.connect(n)

    @rule(n=READERS, count=st.integers(0, 5))
    def deliver(self, n: int, count: int) -> None:
        """Some pushes arrive."""
        client = self.clients[n]
        if client.connected:
            client.inbox.extend(self.server.pushed(client.channel))
            for _ in range(min(count, len(client.inbox))):
                client.sub.feed(client.inbox.popleft(), 0.0)

    @rule(n=READERS, count=st.integers(1, 8))
    def ask(self, n: int, count: int) -> None:
        """XRANGE is executed; its reply is on its way."""
        client = self.clients[n]
        if client.page is None and client.sub.hungry:
            page = self.server.read(client.sub.cursor.last, count)
            client.asked = False
            client.page = (client.generation, client.connected and client.attached, count, page)

    @rule(n=READERS)
    def answer(self, n: int) -> None:
        """Its reply arrives."""
        client = self.clients[n]
        if client.page is None:
            return
        generation, joined, count, (events, end) = client.page
        client.page = None
        if not client.sub.hungry:
            return
        if events:
            client.sub.fill(events, 0.0)
        elif end is not None and end <= client.sub.cursor.last:
            client.sub.diverged()
        if len(events) < count and joined and generation == client.generation and client.connected:
            client.sub.caught_up(0.0)

    @rule(n=READERS)
    def consume(self, n: int) -> None:
        client = self.clients[n]
        client.seen += client.sub.take()

    # The end

    def _settle(self) -> None:
        """Everything that is on its way arrives; somebody ends the request."""
        for n, writer in enumerate(self.writers):
            for _ in range(3):
                for step in (self.execute, self.reply, self.resync, self.send):
                    step(n)
            writer.flight = None
        if self.server.read(ZERO, 1).end is None:
            self.claim(0)
            writer = self.writers[0]
            writer.ending = True
            self.send(0)
            self.execute(0)
            self.reply(0)
        for n, client in enumerate(self.clients):
            self.answer(n)
            self.connect(n)
            self.attach(n)
            for _ in range(100):
                self.deliver(n, 5)
                self.ask(n, 8)
                self.answer(n)
                self.consume(n)
                if client.sub.ended or client.sub.failed:
                    break
            self.consume(n)

    def teardown(self) -> None:
        if not hasattr(self, "server"):
            return
        self._settle()
        log = self.server.read(ZERO, 100_000).events
        self.server.close()
        ids = [event.id for event in log]
        assert ids == sorted(set(ids))
        assert [event.kind for event in log].count(Kind.END) == 1
        assert log[-1].kind == Kind.END
        for before, event in itertools.pairwise(log):
            assert event.id == EventId(before.id.epoch, before.id.seq + 1) or event.id.seq == 0
        for client in self.clients:
            error = client.sub.failed
            if error is None and client.seen[-1] not in log:
                # It had its end before the server forgot it: a stream that is over cannot be told anything.
                assert self.forgot
                assert client.seen[-1].kind == Kind.END
            elif error is None:
                assert client.seen == log, "a reader has something else than the log"
            else:
                assert isinstance(error, StreamDivergedError)
                assert self.forgot, "told to have diverged although nothing was forgotten"
