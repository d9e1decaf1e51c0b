"""The choice of ``kv``: costs, loads between two reports, sessions, temperature."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from dynamo_tasks.errors import NoInstancesError
from dynamo_tasks.router.costs import KvCandidate, KvRouterConfig, costs_of, sample
from dynamo_tasks.router.demand import WorkerDemand
from dynamo_tasks.router.kv import KvPolicy
from dynamo_tasks.router.predicted import TRUST, PredictedLoads, RoutingLoad

PROMPT = [*range(100, 110)]


def policy(**config: Any) -> KvPolicy:
    return KvPolicy(KvRouterConfig(**config), 16, random.Random(1))


def test_a_prompt_goes_to_where_its_beginning_is() -> None:
    one = policy()
    one.index.store(2, PROMPT[:6])
    choice = one.choose([1, 2, 3], 165, PROMPT, 0.0)
    assert (choice.worker, choice.overlap, choice.best_overlap, choice.cost) == (2, 96, 96, 69)


def test_but_not_when_others_are_much_sooner_done() -> None:
    one = policy()
    one.index.store(2, PROMPT[:6])
    one.loads.report(2, RoutingLoad(prefill_tokens=97), 0.0)
    choice = one.choose([1, 2], 165, PROMPT, 0.0)
    assert (choice.worker, choice.overlap, choice.best_overlap) == (1, 0, 96)


def test_a_full_cache_costs() -> None:
    one = policy()
    one.loads.report(1, RoutingLoad(active_blocks=100, total_blocks=1000), 0.0)
    one.loads.report(2, RoutingLoad(active_blocks=90, total_blocks=1000, prefill_tokens=79), 0.0)
    assert one.choose([1, 2], 10, [], 0.0).worker == 2
    one.loads.report(2, RoutingLoad(active_blocks=90, total_blocks=1000, prefill_tokens=81), 0.0)
    assert one.choose([1, 2], 10, [], 0.0).worker == 1


def test_what_was_just_sent_counts_until_the_worker_has_it() -> None:
    one = policy(router_predicted_ttl_secs=0)
    turns = []
    for number in range(4):
        choice = one.choose([1, 2], 1000, [], 0.0)
        one.sent(choice, str(number), [], 0.0, believe=False)
        turns.append(choice.worker)
    assert Counter(turns) == {1: 2, 2: 2}
    first = turns.index(1)
    one.loads.report(1, RoutingLoad(prefill_tokens=10), 0.1, [str(first)])
    assert one.loads.of(1, 0.1).prefill_tokens == 1010
    assert one.loads.of(1, TRUST).prefill_tokens == 10


def test_a_choice_that_is_heard_of_after_the_worker_has_it_does_not_count() -> None:
    loads = PredictedLoads()
    loads.report(1, RoutingLoad(prefill_tokens=50), 0.0, ["a"])
    loads.sent(1, "a", 50, 1, 0.0)
    assert loads.of(1, 0.0).prefill_tokens == 50


def test_siblings_of_a_prompt_that_is_on_its_way_follow_it() -> None:
    one = policy()
    first = one.choose([1, 2, 3], 165, PROMPT, 0.0)
    one.sent(first, "a", PROMPT, 0.0, believe=False)
    one.loads.report(first.worker, RoutingLoad(), 1.0, ["a"])
    second = one.choose([1, 2, 3], 165, PROMPT, 1.0)
    assert (second.worker, second.overlap) == (first.worker, 160)
    assert one.choose([1, 2, 3], 165, PROMPT, 61.0).best_overlap == 0


def test_dynamos_cost_is_that_of_its_source() -> None:
    config = KvRouterConfig(cost="dynamo", overlap_score_credit_decay=1.0, decode_active_request_weight=2.0)
    candidates = {
        1: KvCandidate(64, 6, RoutingLoad(prefill_tokens=160, active_blocks=20, active_requests=3)),
        2: KvCandidate(0, 10, RoutingLoad()),
    }
    costs = costs_of(config, candidates, 160, 16)
    # excess = 160 / 160 = 1: half of the credit; (160 + 160 - 32) / 16 + (20 + 6) + 2 * 3
    assert costs == {1: 18 + 26 + 6, 2: 10 + 10}


def test_temperature_spreads_and_zero_does_not() -> None:
    costs, rng = {1: 10.0, 2: 20.0, 3: 10.0}, random.Random(3)
    cold = Counter(sample(costs, 0.0, rng) for _ in range(300))
    warm = Counter(sample(costs, 1.0, rng) for _ in range(300))
    assert set(cold) == {1, 3}
    assert 30 < warm[2] < warm[1]


@pytest.mark.parametrize(
    ("mode", "extra", "stays"), [("soft", 4000, True), ("soft", 5000, False), ("hard", 5000, True)]
)
def test_a_session_stays_where_it_was(mode: Any, extra: int, stays: bool) -> None:
    one = policy(router_session_affinity_mode=mode)
    one.loads.report(1, RoutingLoad(prefill_tokens=extra), 0.0)
    choice = one.choose([1, 2], 160, PROMPT, 0.0, last=1)
    assert (choice.worker == 1, choice.session) == (stays, stays)
    assert one.choose([2], 160, PROMPT, 0.0, last=1).worker == 2


def test_nobody_is_an_error() -> None:
    with pytest.raises(NoInstancesError):
        policy().choose([], 1, [], 0.0)


def test_a_worker_that_is_gone_leaves_nothing() -> None:
    one = policy()
    one.index.store(1, PROMPT)
    one.loads.report(1, RoutingLoad(prefill_tokens=5), 0.0)
    one.drop(1)
    assert one.choose([1, 2], 160, PROMPT, 0.0).best_overlap == 0
    assert one.loads.of(1, 0.0) == RoutingLoad()


def test_the_demand_of_a_worker_counts_a_shared_prefix_once() -> None:
    demand = WorkerDemand()
    demand.begin("a", 100, [1, 2, 3])
    demand.begin("b", 40, [1, 2, 4])
    assert (demand.prefill_tokens, demand.blocks, demand.blocks_with([1, 9])) == (140, 4, 5)
    demand.prefilled("a")
    demand.prefilled("a")
    assert demand.prefill_tokens == 40
    demand.end("a")
    demand.end("a")
    assert (demand.prefill_tokens, demand.blocks) == (40, 3)
    demand.begin("b", 7, [1])
    assert (demand.prefill_tokens, demand.blocks) == (7, 1)
