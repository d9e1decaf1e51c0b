"""``kv``: the worker that answers soonest, by the cached beginning of the prompt and by load. Pure, without a clock."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dynamo_tasks.errors import NoInstancesError
from dynamo_tasks.router.costs import KvCandidate, KvRouterConfig, costs_of, sample
from dynamo_tasks.router.expected import ExpectedBlocks
from dynamo_tasks.router.index import KvIndex
from dynamo_tasks.router.late import Marks, marks_of
from dynamo_tasks.router.predicted import PredictedLoads

__all__ = ["Choice", "KvPolicy"]


class Choice(NamedTuple):
    """A worker, and why it was chosen.

    Attributes:
        worker: The lease id of the instance.
        prompt: Tokens of the prompt.
        overlap: Tokens of it that the worker has cached, as far as is known.
        best_overlap: Of the worker that has most of it.
        prefill_tokens: Tokens of other prompts that it computes first.
        active_blocks: KV blocks that its requests need.
        cost: What it costs.
        least_cost: What the cheapest costs; more is paid for a session's sake, or at a temperature.
        session: Whether the session's last worker was chosen for being that.
        late: The request waits instead, until a worker has room; this one may have been chosen by then.
        marks: Of its prompt, with late binding: how workers know it.
    """

    worker: int
    prompt: int
    overlap: int
    best_overlap: int
    prefill_tokens: float
    active_blocks: float
    cost: float
    least_cost: float
    session: bool = False
    late: bool = False
    marks: Marks | None = None


class KvPolicy:
    """Chooses among the workers of one component; remembers what they hold and what it has sent.

    Args:
        config: The parameters.
        block_size: Tokens per KV block.
        rng: For repeatable choices.

    Attributes:
        index: The blocks that workers hold.
        loads: Their loads.
    """

    def __init__(self, config: KvRouterConfig, block_size: int, rng: random.Random | None = None):
        self.config = config
        self.block_size = block_size
        self.index = KvIndex()
        self.loads = PredictedLoads()
        self._rng = rng or random.Random()
        self._expected = ExpectedBlocks(config.router_max_blocks)

    def choose(
        self,
        workers: Sequence[int],
        prompt: int,
        hashes: Sequence[int],
        now: float,
        last: int | None = None,
        step: int = 0,
    ) -> Choice:
        """Choose a worker; :meth:`sent` says that the request goes there.

        Args:
            workers: Those that live.
            prompt: Tokens of the prompt.
            hashes: Of its blocks.
            now: Seconds, of any clock that does not go back.
            last: The worker of the session's last request.
            step: Tokens that a step of the workers computes, where they take requests late; 0 = they do not.

        Raises:
            NoInstancesError: there is none.
        """
        if not workers:
            raise NoInstancesError("no live instance serves the endpoint")
        candidates = self._candidates(workers, hashes, now)
        costs = costs_of(self.config, candidates, prompt, self.block_size)
        least = min(costs.values())
        worker = self._of_session(last, costs, least)
        chosen = sample(costs, self.config.router_temperature, self._rng) if worker is None else worker
        candidate, may_wait = candidates[chosen], bool(step) and self.config.router_late_binding != "off"
        return Choice(
            chosen, prompt, candidate.overlap, max(one.overlap for one in candidates.values()),
            candidate.load.prefill_tokens, candidate.load.active_blocks, costs[chosen], least, worker is not None,
            may_wait and self._waits(candidates, chosen, step, by_session=worker is not None),
            marks_of(prompt, hashes, self.block_size, self.config.router_queue_policy) if may_wait else None,
        )  # fmt: skip

    def _waits(
        self, candidates: Mapping[int, KvCandidate], chosen: int, step: int, *, by_session: bool
    ) -> bool:
        """Return whether the worker of a request is better chosen later: one that is full has no use of it yet."""
        config = self.config
        if by_session and config.router_session_affinity_mode == "hard":
            return False
        full = config.router_queue_threshold * step
        if candidates[chosen].load.prefill_tokens <= full:
            return False
        return config.router_late_binding == "on" or all(
            one.load.prefill_tokens > full for one in candidates.values()
        )

    def _candidates(
        self, workers: Sequence[int], hashes: Sequence[int], now: float
    ) -> dict[int, KvCandidate]:
        expected = self._expected.find(hashes, now)
        depths, count, size = self.index.find(hashes), len(hashes), self.block_size
        found: dict[int, KvCandidate] = {}
        for worker in workers:
            depth = max(depths.get(worker, 0), expected.get(worker, 0))
            found[worker] = KvCandidate(depth * size, count - depth, self.loads.of(worker, now))
        return found

    def _of_session(self, last: int | None, costs: dict[int, float], least: float) -> int | None:
        if last is None or last not in costs:
            return None
        config = self.config
        hard = config.router_session_affinity_mode == "hard"
        return last if hard or costs[last] <= least + config.router_session_affinity_slack else None

    def sent(
        self, choice: Choice, request_id: str, hashes: Sequence[int], now: float, *, believe: bool
    ) -> None:
        """The request goes to the worker that was chosen.

        Args:
            choice: What :meth:`choose` gave.
            request_id: Id of the request.
            hashes: Of its blocks.
            now: As above.
            believe: The worker reports no events: its cache is what it was sent, for ``router_ttl_secs``.
        """
        blocks = len(hashes) - choice.overlap // self.block_size
        self.loads.sent(choice.worker, request_id, choice.prompt - choice.overlap, blocks, now)
        seconds = self.config.router_ttl_secs if believe else self.config.router_predicted_ttl_secs
        if seconds:
            self._expected.store(choice.worker, hashes, now + seconds)

    def drop(self, worker: int) -> None:
        """Know a worker no more: it is gone."""
        self.index.drop(worker)
        self.loads.drop(worker)
        self._expected.drop(worker)
