"""Policies of routing and binding, as :mod:`benchmarks.replay` compares them.

Early ones choose a worker when a request comes. The late one keeps requests in the queue until a worker has room, and
then chooses the request and the worker together.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from benchmarks.virtual_fleet import Arrival, Dispatcher, Fleet, Worker
from dynamo_tasks.router.costs import KvRouterConfig
from dynamo_tasks.router.kv import KvPolicy
from dynamo_tasks.router.predicted import RoutingLoad

__all__ = ["CHANGING", "POLICIES"]

_PRESSURE = 8000
"""Tokens of prompt that a full KV cache is worth: steps become slower with it, and cached prefixes are lost sooner."""
_ROOM = 4096
"""Tokens of prompts that a worker may have before it, and still be given more: half a step, so that steps are full."""
_WINDOW = 64
"""Requests at the head of the queue among which is chosen."""
_PATIENCE = 1.15
"""Share of the longest wait under FCFS after which a request is the next, whatever it costs."""


class _Early:
    """Chooses when a request comes."""

    def __init__(self, fleet: Fleet):
        self._fleet = fleet

    def choose(self, arrival: Arrival) -> Worker:
        """Choose the worker."""
        raise NotImplementedError

    def arrived(self, arrival: Arrival, now: float) -> None:
        self._fleet.send(arrival, self.choose(arrival))

    def freed(self, worker: Worker, ended: list[Arrival], now: float) -> None:
        pass


class RoundRobin(_Early):
    """One after the other."""

    def choose(self, arrival: Arrival) -> Worker:
        return self._fleet.workers[arrival.number % len(self._fleet.workers)]


class DynamoKv(_Early):
    """NVIDIA Dynamo's ``kv`` with its defaults (1.6.1): blocks to compute before the first token, and blocks in use."""

    def __init__(self, fleet: Fleet):
        super().__init__(fleet)
        self._random = random.Random(1)

    def choose(self, arrival: Arrival) -> Worker:
        costs = [self._cost(worker, arrival) for worker in self._fleet.workers]
        least = min(costs)
        equal = [worker for worker, cost in zip(self._fleet.workers, costs, strict=True) if cost == least]
        return self._random.choice(equal)

    def _cost(self, worker: Worker, arrival: Arrival) -> float:
        size = self._fleet.args.block_size
        before = sum(one.request.prompt - one.credit for one in worker.live.values() if one.first < 0)
        prefill = max(0, before + arrival.request.prompt - worker.overlap(arrival))
        return prefill / size + worker.blocks_with(arrival)


class Report(NamedTuple):
    """What a worker tells the routers: as a batch of ``kv_events`` does."""

    due: float
    worker: int
    load: RoutingLoad
    taken: list[str]
    changes: list[dict[str, Any]]


class Kv(_Early):
    """The product's own policy, in one or several routers that know what workers report, and when it has come.

    Args:
        fleet: The workers.
        routers: How many; requests go to them in turn, and none knows what another has just sent.
        delay: Seconds from a step's end, or a request's coming, to the moment at which routers know of it.
        config: Parameters.
        shared: Each choice is known to the other routers before the next one is made, as in the product; otherwise they
            see it in the workers' reports.
        period: Workers report no events, and their load every so many seconds alone; 0 = they report all.
    """

    def __init__(
        self, fleet: Fleet, *, routers: int = 1, delay: float = 0.025, config: KvRouterConfig | None = None,
        shared: bool = True, period: float = 0.0,
    ):  # fmt: skip
        super().__init__(fleet)
        size = fleet.args.block_size
        self.routers = [
            KvPolicy(config or KvRouterConfig(), size, random.Random(seed)) for seed in range(routers)
        ]
        self._delay, self._period, self._shared = delay, period, shared
        self._reports: deque[Report] = deque()
        self._next = 0.0
        if not period:
            for worker in fleet.workers:
                worker.scheduler.cache.changes = []

    def choose(self, arrival: Arrival) -> Worker:
        now, router = self._fleet.now, self.routers[arrival.number % len(self.routers)]
        self._hear(now)
        workers = [worker.number for worker in self._fleet.workers]
        choice = router.choose(workers, arrival.request.prompt, arrival.hashes, now)
        router.sent(choice, str(arrival.number), arrival.hashes, now, believe=self._period > 0)
        if self._shared:
            blocks = len(arrival.hashes) - choice.overlap // router.block_size
            for other in self.routers:
                if other is not router:
                    uncached = choice.prompt - choice.overlap
                    other.loads.sent(choice.worker, str(arrival.number), uncached, blocks, now)
        return self._fleet.workers[choice.worker]

    def arrived(self, arrival: Arrival, now: float) -> None:
        super().arrived(arrival, now)
        self._report(self._fleet.workers[arrival.worker], now)

    def freed(self, worker: Worker, ended: list[Arrival], now: float) -> None:
        self._report(worker, now)

    def _report(self, worker: Worker, now: float) -> None:
        if self._period:
            if now < self._next:
                return
            self._next = now + self._period
            for one in self._fleet.workers:
                self._reports.append(Report(now + self._delay, one.number, one.load(), self._taken(one), []))
            return
        changes, worker.scheduler.cache.changes = worker.scheduler.cache.changes or [], []
        self._reports.append(
            Report(now + self._delay, worker.number, worker.load(), self._taken(worker), changes)
        )

    @staticmethod
    def _taken(worker: Worker) -> list[str]:
        taken, worker.taken = worker.taken, []
        return taken

    def _hear(self, now: float) -> None:
        while self._reports and self._reports[0].due <= now:
            report = self._reports.popleft()
            for router in self.routers:
                router.loads.report(report.worker, report.load, now, report.taken)
                for change in report.changes:
                    apply = router.index.store if change["type"] == "BlockStored" else router.index.remove
                    apply(report.worker, change["block_hashes"])


class Cheapest(_Early):
    """What is left to compute before the first token, and how full the cache would be; for fleets that change."""

    def choose(self, arrival: Arrival) -> Worker:
        return min(self._fleet.workers, key=lambda worker: _cost(worker, arrival))


class Late:
    """The queue waits for room; then the cheapest pair of request and worker is bound.

    A request that another worker would serve sooner, busy as that is, waits for it. One that has waited for longer
    than the longest under first-come-first-served, by :data:`_PATIENCE`, goes next.
    """

    def __init__(self, fleet: Fleet):
        self._fleet = fleet
        self._queue: list[Arrival] = []
        self._came: list[Arrival] = []
        self._sent = 0
        self._longest = 0.0

    def arrived(self, arrival: Arrival, now: float) -> None:
        self._came.append(arrival)
        self._queue.append(arrival)
        self._bind(now)

    def freed(self, worker: Worker, ended: list[Arrival], now: float) -> None:
        if self._queue:
            self._bind(now)

    def _bind(self, now: float) -> None:
        while self._queue and (free := [worker for worker in self._fleet.workers if worker.has_room(_ROOM)]):
            # The request whose turn it would be by now, had all gone in the order in which they came.
            self._longest = max(self._longest, now - self._came[self._sent].request.at)
            if (pair := self._cheapest(free, now)) is None:
                return
            arrival, worker = pair
            self._queue.remove(arrival)
            self._sent += 1
            self._fleet.send(arrival, worker)

    def _cheapest(self, free: list[Worker], now: float) -> tuple[Arrival, Worker] | None:
        oldest = self._queue[0]
        if now - oldest.request.at > _PATIENCE * self._longest:
            return oldest, min(free, key=lambda worker: _cost(worker, oldest))
        best: tuple[float, Arrival, Worker] | None = None
        for arrival in self._queue[:_WINDOW]:
            costs = {worker.number: _cost(worker, arrival) for worker in self._fleet.workers}
            least = min(costs.values())
            for worker in free:
                cost = costs[worker.number]
                if cost <= least and (best is None or cost < best[0]):
                    best = cost, arrival, worker
        return None if best is None else (best[1], best[2])


def _cost(worker: Worker, arrival: Arrival) -> float:
    """Tokens to compute before the first one of this request, and what it costs those that decode."""
    own = max(1, arrival.request.prompt - worker.overlap(arrival))
    return worker.backlog + own + _PRESSURE * worker.blocks_with(arrival) / worker.scheduler.cache.num_blocks


POLICIES: dict[str, Callable[[Fleet], Dispatcher]] = {
    "round_robin": RoundRobin,
    "dynamo_kv": DynamoKv,
    "kv": Kv,
    "kv_2_routers": partial(Kv, routers=2),
    "kv_4_routers": partial(Kv, routers=4),
    "kv_4_unshared": partial(Kv, routers=4, shared=False),
    "kv_no_events": partial(Kv, period=1.0, config=KvRouterConfig(use_kv_events=False)),
    "kv_dynamo_cost": partial(Kv, config=KvRouterConfig(cost="dynamo")),
    "late": Late,
}

CHANGING: dict[str, Callable[[Fleet], Dispatcher]] = {
    "cheapest": Cheapest,
    "dynamo_kv": DynamoKv,
    "round_robin": RoundRobin,
}
"""Those that know nothing of a worker beforehand: for fleets whose workers come and go."""
