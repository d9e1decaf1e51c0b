"""A virtual fleet whose size a planner decides: workers start, serve, drain and end.

A worker costs from the decision that it shall be there to its end, its start and its drain included. No request is
killed: a draining worker takes no more and ends what it has.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

from benchmarks.fleet_watch import FleetWatch
from benchmarks.traces import TracedRequest
from benchmarks.virtual_fleet import Arrival, Dispatcher, Fleet, FleetArgs, Outcome, Worker
from dynamo_tasks.planner import Policy

__all__ = ["Action", "ScaledFleet", "ScaledOutcome"]


class Action(NamedTuple):
    """A decision that changed the fleet: when, and by how many workers."""

    at: float
    change: int


class ScaledOutcome(NamedTuple):
    """What became of a trace, and what that took.

    Attributes:
        arrivals: All requests.
        seconds: Until the last one ended.
        worker_seconds: Of all workers together.
        actions: All that changed the fleet.
        most: Workers that there were at once, at most.
    """

    arrivals: list[Arrival]
    seconds: float
    worker_seconds: float
    actions: list[Action]
    most: int


class ScaledFleet(Fleet):
    """A fleet under a policy.

    Args:
        args: The fleet as it is at first.
        policy: Says how many workers there shall be.
        start_up: Seconds from a decision to a worker that takes requests.
    """

    def __init__(self, args: FleetArgs, policy: Policy, start_up: float):
        super().__init__(args)
        self._policy = policy
        self._start_up = start_up
        self._watch = FleetWatch()
        self._numbers = itertools.count(args.workers)
        self._timers = itertools.count(1)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._since = dict.fromkeys((worker.number for worker in self.workers), 0.0)
        self._starting = 0
        self._draining: set[int] = set()
        self._left = 0
        self._cost = 0.0
        self._most = args.workers
        self._actions: list[Action] = []
        self._held: list[Arrival] = []
        self._dispatcher: Dispatcher

    def replay(self, trace: Iterable[TracedRequest], make: Callable[[Fleet], Dispatcher]) -> ScaledOutcome:
        """Replay a trace to its end."""
        requests = [*trace]
        self._left = len(requests)
        self._dispatcher = make(self)
        self._after(self._policy.interval, self._plan)
        outcome: Outcome = self.run(requests, self)
        self._cost += sum(outcome.seconds - since for since in self._since.values())
        return ScaledOutcome(outcome.arrivals, outcome.seconds, self._cost, self._actions, self._most)

    # -- as a dispatcher: requests wait here while nobody is ready --------------------------------

    def arrived(self, arrival: Arrival, now: float) -> None:
        self._watch.arrived(arrival)
        if self.workers:
            self._dispatcher.arrived(arrival, now)
        else:
            self._held.append(arrival)

    def freed(self, worker: Worker, ended: list[Arrival], now: float) -> None:
        self._watch.stepped(worker, ended)
        self._left -= len(ended)
        if worker.number not in self._draining:
            self._dispatcher.freed(worker, ended, now)
        elif not worker.live:
            self._end(worker)

    # -- workers ----------------------------------------------------------------------------------

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        at, number = self.now + seconds, next(self._timers)
        heapq.heappush(self._due, (at, number, act))
        heapq.heappush(self._events, (at, -number, None))

    def _look(self) -> None:
        _, _, act = heapq.heappop(self._due)
        if self._left:
            act()

    def _plan(self) -> None:
        seen = self._watch.look(self.now, self.workers, self._starting, len(self._draining))
        change = self._policy.wanted(seen) - seen.live
        if change:
            self._actions.append(Action(self.now, change))
        for _ in range(change):
            self._start()
        for _ in range(-change):
            self._drain()
        self._most = max(self._most, len(self._since))
        self._after(self._policy.interval, self._plan)

    def _start(self) -> None:
        worker = Worker(next(self._numbers), self.args)
        self._since[worker.number] = self.now
        self._starting += 1
        self._after(self._start_up, lambda: self._ready(worker))

    def _ready(self, worker: Worker) -> None:
        if worker.number not in self._since:
            return
        self._starting -= 1
        self.workers.append(worker)
        held, self._held = self._held, []
        for arrival in held:
            self._dispatcher.arrived(arrival, self.now)
        self._dispatcher.freed(worker, [], self.now)

    def _drain(self) -> None:
        """Take one that starts, the latest first; else the ready one with the least to end."""
        if self._starting:
            ready = {worker.number for worker in self.workers} | self._draining
            self._starting -= 1
            self._account(max(number for number in self._since if number not in ready))
            return
        worker = min(self.workers, key=lambda one: (len(one.live), -one.number))
        self.workers.remove(worker)
        self._draining.add(worker.number)
        if not worker.live:
            self._end(worker)

    def _end(self, worker: Worker) -> None:
        self._draining.discard(worker.number)
        self._account(worker.number)

    def _account(self, number: int) -> None:
        self._cost += self.now - self._since.pop(number)
