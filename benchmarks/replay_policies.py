"""Policies of routing and binding, as :mod:`benchmarks.replay` compares them.

Early ones choose a worker when a request comes. Late ones keep requests in the queue while all workers are full; one
that has room then chooses a request.
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
from dynamo_tasks.router.late import WINDOW, Marks, Waiting, marks_of, pick
from dynamo_tasks.router.predicted import RoutingLoad

__all__ = ["CHANGING", "POLICIES"]

_PRESSURE = 8000
"""Tokens of prompt that a full KV cache is worth: steps become slower with it, and cached prefixes are lost sooner."""
_SESSION = 3
"""Ids at the beginning of a prompt that name its session: the traces name none."""


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
        tenants: Requests are of so many, in turn, who share no prefix.
    """

    def __init__(
        self, fleet: Fleet, *, routers: int = 1, delay: float = 0.025, config: KvRouterConfig | None = None,
        shared: bool = True, period: float = 0.0, tenants: int = 1,
    ):  # fmt: skip
        super().__init__(fleet)
        size = fleet.args.block_size
        self.routers = [
            KvPolicy(config or KvRouterConfig(), size, random.Random(seed)) for seed in range(routers)
        ]
        self._delay, self._period, self._shared = delay, period, shared
        self._reports: deque[Report] = deque()
        self._next = 0.0
        self._tenants = tenants
        self._last: dict[tuple[int, ...], int] = {}
        if not period:
            for worker in fleet.workers:
                worker.scheduler.cache.changes = []

    def choose(self, arrival: Arrival) -> Worker:
        now, router = self._fleet.now, self.routers[arrival.number % len(self.routers)]
        self._hear(now)
        workers = [worker.number for worker in self._fleet.workers]
        session = tuple(arrival.request.ids[:_SESSION])
        last = self._last.get(session) if router.config.router_session_affinity_ttl_secs else None
        choice = router.choose(workers, arrival.request.prompt, arrival.hashes, now, last)
        self._last[session] = choice.worker
        router.sent(choice, str(arrival.number), arrival.hashes, now, believe=self._period > 0)
        if self._shared:
            blocks = len(arrival.hashes) - choice.overlap // router.block_size
            for other in self.routers:
                if other is not router:
                    uncached = choice.prompt - choice.overlap
                    other.loads.sent(choice.worker, str(arrival.number), uncached, blocks, now)
        return self._fleet.workers[choice.worker]

    def arrived(self, arrival: Arrival, now: float) -> None:
        if self._tenants > 1:
            salt = arrival.number % self._tenants
            arrival.hashes = [value * self._tenants + salt for value in arrival.hashes]
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


class KvLate(Kv):
    """The product's policy with late binding.

    A request is bound when it comes where a worker has room for it, as the router knows, and nobody waits; else it
    waits. Any worker that has room takes from the queue by :func:`~dynamo_tasks.router.late.pick`, as in the product:
    it knows its own cache and backlog, and nothing of others.

    Args:
        fleet: The workers.
        config: Parameters of the router.
    """

    def __init__(self, fleet: Fleet, *, config: KvRouterConfig):
        super().__init__(fleet, config=config)
        self.step = fleet.args.max_num_batched_tokens
        self._room = self.step / 2
        self._queue: list[tuple[Arrival, Marks]] = []
        self._seen: dict[int, int] = {}
        self._count = self._longest = 0
        self._rng = random.Random(7)

    def arrived(self, arrival: Arrival, now: float) -> None:
        if not self._queue and not self._waits(arrival, now):
            super().arrived(arrival, now)
            return
        size, policy = self._fleet.args.block_size, self.routers[0].config.router_queue_policy
        self._seen[arrival.number] = self._count
        self._queue.append((arrival, marks_of(arrival.request.prompt, arrival.hashes, size, policy)))
        self._longest = max(self._longest, len(self._queue))
        workers = [*self._fleet.workers]
        self._rng.shuffle(workers)  # who is woken up first is nobody's choice
        for worker in workers:
            self._fill(worker, now)

    def _waits(self, arrival: Arrival, now: float) -> bool:
        self._hear(now)
        workers = [worker.number for worker in self._fleet.workers]
        request, router = arrival.request, self.routers[0]
        return router.choose(workers, request.prompt, arrival.hashes, now, step=self.step).late

    def freed(self, worker: Worker, ended: list[Arrival], now: float) -> None:
        self._fill(worker, now)
        super().freed(worker, ended, now)

    def _fill(self, worker: Worker, now: float) -> None:
        while self._queue and worker.has_room(self._room):
            head = self._queue[:WINDOW]
            window = [
                Waiting(float(arrival.number), self._count - self._seen[arrival.number], marks)
                for arrival, marks in head
            ]
            arrival, _ = self._queue.pop(pick(window, worker.scheduler.cache, self._longest).place)
            self._longest *= bool(self._queue)
            self._count += 1
            self._fleet.send(arrival, worker)
            self._report(worker, now)


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
    "kv_4_tenants": partial(Kv, tenants=4),
    "kv_sessions": partial(Kv, config=KvRouterConfig(router_session_affinity_ttl_secs=600)),
    "kv_hard_sessions": partial(
        Kv, config=KvRouterConfig(router_session_affinity_ttl_secs=600, router_session_affinity_mode="hard")
    ),
    "kv_dynamo_cost": partial(Kv, config=KvRouterConfig(cost="dynamo")),
    "kv_late": partial(KvLate, config=KvRouterConfig(router_late_binding="soft")),
    "kv_late_on": partial(KvLate, config=KvRouterConfig(router_late_binding="on")),
    "kv_late_wspt": partial(
        KvLate, config=KvRouterConfig(router_late_binding="soft", router_queue_policy="wspt")
    ),
    "kv_late_fcfs": partial(
        KvLate, config=KvRouterConfig(router_late_binding="soft", router_queue_policy="fcfs")
    ),
}

CHANGING: dict[str, Callable[[Fleet], Dispatcher]] = {
    "cheapest": Cheapest,
    "dynamo_kv": DynamoKv,
    "round_robin": RoundRobin,
}
"""Those that know nothing of a worker beforehand: for fleets whose workers come and go."""
