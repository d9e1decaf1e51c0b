"""Workers in virtual time: the mocker's own scheduler, steps of a modelled length, no waiting.

A day of requests takes seconds. What a policy sees and decides is what it would see and decide in the product:
the loads that instances report, and which blocks their caches hold.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from benchmarks.traces import TracedRequest
from dynamo_tasks.engines.mocker.scheduler import Scheduler, SchedulerArgs
from dynamo_tasks.engines.mocker.sequence import Run, Sequence, SequenceState
from dynamo_tasks.router.demand import WorkerDemand
from dynamo_tasks.router.predicted import RoutingLoad

__all__ = ["Arrival", "Dispatcher", "Fleet", "FleetArgs", "Outcome", "polynomial"]

Timing = Callable[[int, int, float], float]


def polynomial(prefill: int, decoding: int, kv_usage: float) -> float:
    """The seconds of a step, by the default model of NVIDIA Dynamo's mocker (``perf_model.rs``, 1.6.1).

    Args:
        prefill: Tokens of prompts that it computes.
        decoding: Sequences that get a token.
        kv_usage: Share of the KV cache that is in use, 0..1.
    """
    ms = 0.0
    if prefill:
        ms += 4.209989e-07 * prefill**2 + 1.518344e-02 * prefill + 1.650142e01
    if decoding:
        ms += max(1.0, -25.74 * kv_usage**2 + 54.01 * kv_usage + 5.74)
    return ms / 1000


class FleetArgs(NamedTuple):
    """What all workers have in common.

    Attributes:
        workers: How many.
        blocks: KV blocks of each.
        block_size: Tokens per block.
        max_num_seqs: Sequences that one batches.
        max_num_batched_tokens: Tokens that one step computes.
        timing: How long a step takes.
    """

    workers: int = 8
    blocks: int = 16384
    block_size: int = 64
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    timing: Timing = polynomial


class _VirtualSequence(Sequence):
    """A sequence that has no tokens, only their number and the hashes of its blocks."""

    __slots__ = ("arrival", "order")

    def __init__(self, run: Run, arrival: Arrival):
        super().__init__(run, range(arrival.request.prompt), None, 0, arrival.request.output, 0)  # type: ignore[arg-type]
        self.hashes = list(arrival.hashes)
        self.arrival = arrival

    def tokens(self, start: int, stop: int) -> list[int]:
        return [self.arrival.number, start]  # of output: nobody shares it


class Arrival:
    """A request of the trace on its way through the fleet.

    Attributes:
        number: Its place in the trace.
        request: As the trace has it.
        hashes: Of the full blocks of its prompt.
        worker: Who has it; -1 = nobody yet.
        sent: When it was sent there, seconds.
        begun: When the first step began that computed something of its prompt; -1 = not yet.
        first: When its first token was there; -1 = not yet.
        last: When its last token was there.
        cached: Tokens of its prompt that the worker's cache had.
        credit: Tokens that it had when the request was sent.
    """

    __slots__ = (
        "begun",
        "cached",
        "credit",
        "first",
        "hashes",
        "last",
        "number",
        "request",
        "sent",
        "sequence",
        "worker",
    )

    def __init__(self, number: int, request: TracedRequest, size: int):
        self.number = number
        self.request = request
        self.hashes = request.hashes(size)
        self.worker = -1
        self.sent = 0.0
        self.begun = self.first = self.last = -1.0
        self.cached = self.credit = 0
        self.sequence: Sequence | None = None


class Step(NamedTuple):
    """One forward pass: its seconds, tokens of prompts that it computes, sequences that get a token."""

    seconds: float
    prefill: int
    decoding: int


class Worker:
    """One engine.

    Attributes:
        number: Its place in the fleet.
        scheduler: The mocker's.
        live: Requests that it has, by their numbers.
        taken: Ids of those that it got since it last reported.
        args: What it has in common with others.
        steps: A step goes on.
        step: The latest one.
        begun: Requests whose first token came with the last step that ended.
    """

    def __init__(self, number: int, args: FleetArgs):
        self.number = number
        self.scheduler = Scheduler(
            SchedulerArgs(
                num_blocks=args.blocks, block_size=args.block_size, max_num_seqs=args.max_num_seqs,
                max_num_batched_tokens=args.max_num_batched_tokens,
            )
        )  # fmt: skip
        self.live: dict[int, Arrival] = {}
        self.steps = False
        self.step = Step(0.0, 0, 0)
        self.begun: list[Arrival] = []
        self._fresh: list[Arrival] = []
        self._demand = WorkerDemand()
        self.args = args
        self.taken: list[str] = []

    @property
    def backlog(self) -> int:
        """Tokens of prompts that it has yet to compute."""
        return self.scheduler.prefill_tokens

    def load(self) -> RoutingLoad:
        """Its load, as an instance of the product reports it."""
        cache = self.scheduler.cache
        blocks = max(self._demand.blocks, cache.used)
        tokens = min(self.backlog, self._demand.prefill_tokens)
        return RoutingLoad(tokens, blocks, len(self.live), cache.num_blocks)

    def has_room(self, tokens: int) -> bool:
        """Return whether it has at most so many tokens of prompts before it, and a place in the batch."""
        scheduler = self.scheduler
        return not scheduler.waiting and len(self.live) < self.args.max_num_seqs and self.backlog <= tokens

    def overlap(self, arrival: Arrival) -> int:
        """Tokens of a prompt that its cache has."""
        return len(self.scheduler.cache.find(arrival.hashes)) * self.args.block_size

    def blocks_with(self, arrival: Arrival) -> int:
        """Blocks that its requests need, and those of another one; what they share counts once."""
        return self._demand.blocks_with(arrival.hashes) + self._written()

    def _written(self) -> int:
        size = self.args.block_size
        return sum(one.sequence.produced // size for one in self.live.values() if one.sequence is not None)

    def take(self, arrival: Arrival, now: float) -> None:
        """Give it a request."""
        arrival.worker, arrival.sent, arrival.credit = self.number, now, self.overlap(arrival)
        self._demand.begin(str(arrival.number), arrival.request.prompt - arrival.credit, arrival.hashes)
        self.taken.append(str(arrival.number))
        run = Run()
        arrival.sequence = _VirtualSequence(run, arrival)
        run.sequences.append(arrival.sequence)
        self.live[arrival.number] = arrival
        self._fresh.append(arrival)
        self.scheduler.submit(arrival.sequence)

    def begin(self, now: float) -> float:
        """Plan a step; gives its seconds."""
        scheduler = self.scheduler
        prefill, decoding = scheduler.plan(), scheduler.decoding
        seconds = self.args.timing(prefill, decoding, scheduler.cache.usage)
        self.step = Step(seconds, prefill, decoding)
        for one in self._fresh:
            if one.begun < 0 and one.sequence is not None and one.sequence.state is SequenceState.PREFILL:
                one.begun = now
        return seconds

    def end(self, now: float) -> list[Arrival]:
        """End the step; gives the requests that ended with it."""
        self.scheduler.advance()
        self.begun = self._note_first(now) if self._fresh else []
        ended = [one for one in self.live.values() if one.sequence.state is SequenceState.ENDED]  # type: ignore[union-attr]
        for one in ended:
            one.last = now
            one.cached = one.sequence.run.cached_tokens  # type: ignore[union-attr]
            one.sequence = None
            self._demand.end(str(one.number))
            del self.live[one.number]
        return ended

    def _note_first(self, now: float) -> list[Arrival]:
        begun = [one for one in self._fresh if one.sequence is not None and one.sequence.produced]
        for one in begun:
            one.first = now
            self._demand.prefilled(str(one.number))
        if begun:
            self._fresh = [one for one in self._fresh if one.first < 0]
        return begun


class Dispatcher(Protocol):
    """Decides who gets which request, and when."""

    def arrived(self, arrival: Arrival, now: float) -> None:
        """A request came."""

    def freed(self, worker: Worker, ended: list[Arrival], now: float) -> None:
        """A worker ended a step."""


class Outcome(NamedTuple):
    """What became of a trace.

    Attributes:
        arrivals: All of its requests.
        seconds: Until the last one ended.
    """

    arrivals: list[Arrival]
    seconds: float


class Fleet:
    """The workers, and the clock that they share.

    Attributes:
        args: What the workers have in common.
        workers: Those that take requests.
        now: Seconds since the begin of the trace.
    """

    def __init__(self, args: FleetArgs):
        self.args = args
        self.workers = [Worker(number, args) for number in range(args.workers)]
        self.now = 0.0
        self._events: list[tuple[float, int, Worker | None]] = []

    def send(self, arrival: Arrival, worker: Worker) -> None:
        """Give a request to a worker, now."""
        worker.take(arrival, self.now)
        if not worker.steps:
            self._step(worker)

    def _step(self, worker: Worker) -> None:
        worker.steps = worker.scheduler.busy
        if worker.steps:
            heapq.heappush(self._events, (self.now + worker.begin(self.now), worker.number, worker))

    def run(self, trace: Iterable[TracedRequest], dispatcher: Dispatcher) -> Outcome:
        """Replay a trace to its end."""
        size = self.args.block_size
        arrivals = [Arrival(number, request, size) for number, request in enumerate(trace)]
        for arrival in arrivals:
            self._until(arrival.request.at, dispatcher)
            self.now = arrival.request.at
            dispatcher.arrived(arrival, self.now)
        self._until(float("inf"), dispatcher)
        return Outcome(arrivals, self.now)

    def _until(self, limit: float, dispatcher: Dispatcher) -> None:
        events = self._events
        while events and events[0][0] <= limit:
            self.now, _, worker = heapq.heappop(events)
            if worker is None:
                self._look()
            else:
                self._end_step(worker, dispatcher)

    def _end_step(self, worker: Worker, dispatcher: Dispatcher) -> list[Arrival]:
        ended = worker.end(self.now)
        worker.steps = False
        dispatcher.freed(worker, ended, self.now)
        if not worker.steps:
            self._step(worker)
        return ended

    def _look(self) -> None:
        """Do what is due besides steps; a fleet of a fixed size has nothing to do."""
