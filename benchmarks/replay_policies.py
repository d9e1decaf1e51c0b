"""Policies of routing and binding, as :mod:`benchmarks.replay` compares them.

Early ones choose a worker when a request comes. The late one keeps requests in the queue until a worker has room, and
then chooses the request and the worker together.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from benchmarks.virtual_fleet import Arrival, Dispatcher, Fleet, Worker

__all__ = ["POLICIES"]

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
        self._fleet.send(arrival, self.choose(arrival).number)

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


class Kv(_Early):
    """What is left to compute before the first token, and how full the cache would be."""

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
            self._fleet.send(arrival, worker.number)

    def _cheapest(self, free: list[Worker], now: float) -> tuple[Arrival, Worker] | None:
        oldest = self._queue[0]
        if now - oldest.request.at > _PATIENCE * self._longest:
            return oldest, min(free, key=lambda worker: _cost(worker, oldest))
        best: tuple[float, Arrival, Worker] | None = None
        for arrival in self._queue[:_WINDOW]:
            costs = [_cost(worker, arrival) for worker in self._fleet.workers]
            least = min(costs)
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
    "late": Late,
}
