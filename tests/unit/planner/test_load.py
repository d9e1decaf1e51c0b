"""The policy ``load``: rule by rule."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest

from dynamo_tasks.planner import Latency, Observation, Policy, WorkerLoad, make_policy

SETTINGS: dict[str, Any] = {
    "ttft": 1.0,
    "itl": 0.05,
    "max": 30,
    "step": 30,
    "start_up": 30.0,
    "cool_down": 60.0,
}


def spread(mean: float, count: int = 25) -> Latency:
    """Times of an exponential distribution."""
    times = [-mean * math.log(1 - (place + 0.5) / count) for place in range(count)]
    measured = Latency.of(times)
    assert measured is not None
    return measured


def look(place: int, ready: int, **seen: Any) -> Observation:
    """Five requests per second, each of 0.4 s of work: two workers are busy with prompts."""
    calm: dict[str, Any] = {
        "workers": (WorkerLoad(running=10, slots=256, kv_usage=0.1),) * ready,
        "arrivals": 25, "prompt_tokens": 25 * 1000, "output_tokens": 25 * 100,
        "queue_time": spread(0.1), "ttft": spread(0.5), "itl": spread(0.01),
    }  # fmt: skip
    return Observation(time=5.0 * place, ready=ready, **{**calm, **seen})


def settled(policy: Policy, looks: int, ready: int, **seen: Any) -> list[int]:
    """Let the policy have its way at once; gives the workers after each look."""
    counts = []
    for place in range(looks):
        ready = policy.wanted(look(place, ready, **seen))
        counts.append(ready)
    return counts


def test_a_load_that_keeps_the_targets_with_less_gets_less() -> None:
    assert settled(make_policy(SETTINGS), 240, ready=12)[-1] <= 8


def test_waits_beyond_what_the_target_leaves_ask_for_slack() -> None:
    calm = settled(make_policy(SETTINGS), 100, ready=4)[-1]
    late = settled(make_policy(SETTINGS), 100, ready=4, queue_time=spread(0.4), ttft=spread(0.8))[-1]
    assert late > calm + 2


def test_prompts_that_are_too_long_for_the_target_ask_for_nobody() -> None:
    alone = settled(make_policy(SETTINGS), 100, ready=20, queue_time=spread(0.001), ttft=spread(2.0))[-1]
    assert alone < 20


def test_tokens_that_come_too_slowly_ask_for_fewer_requests_per_worker() -> None:
    assert settled(make_policy(SETTINGS), 60, ready=4, itl=spread(0.04))[-1] > 8


@pytest.mark.parametrize(
    "full",
    [WorkerLoad(running=10, slots=256, kv_usage=0.95), WorkerLoad(running=250, slots=256, kv_usage=0.1)],
    ids=["caches", "slots"],
)
@pytest.mark.parametrize("measured", [True, False])
def test_workers_that_are_full_ask_for_more(full: WorkerLoad, measured: bool) -> None:
    policy = make_policy(SETTINGS)
    times = {} if measured else {"ttft": None, "queue_time": None, "itl": None}
    for place in range(40):
        wanted = policy.wanted(look(place, 4, workers=(full,) * 4, **times))
    assert wanted == 5


def test_without_any_times_requests_that_wait_too_long_ask_for_one_more() -> None:
    policy = make_policy(SETTINGS)
    assert policy.wanted(look(0, 2, ttft=None, queue_time=None, waiting=9, oldest_wait=3.0)) == 3


def test_a_load_that_grows_is_met_before_it_comes() -> None:
    steady, growing = make_policy(SETTINGS), make_policy(SETTINGS)
    for place in range(120):
        steady.wanted(look(place, 6, arrivals=50))
        growing.wanted(look(place, 6, arrivals=20 + place // 4))
    now = {"arrivals": 50}
    assert growing.wanted(look(120, 6, **now)) > steady.wanted(look(120, 6, **now))


def test_a_backlog_counts_as_load() -> None:
    calm, behind = make_policy(SETTINGS), make_policy(SETTINGS)
    for policy in (calm, behind):
        settled(policy, 60, ready=4)
    assert behind.wanted(look(60, 4, waiting=400)) > calm.wanted(look(60, 4))


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_constant_load_moves_nobody(seed: int) -> None:
    policy, dice, ready = make_policy(SETTINGS), random.Random(seed), 5
    counts = []
    for place in range(720):  # an hour
        arrivals = sum(dice.random() < 0.05 for _ in range(500))
        noise = math.exp(dice.gauss(0, 0.5))
        # The more workers there are, the shorter requests wait: the loop is closed.
        waits = spread(0.6 * noise * math.exp(2 - ready), max(arrivals, 1))
        ready = policy.wanted(
            look(place, ready, arrivals=arrivals, queue_time=waits, ttft=spread(0.4 + waits.mean))
        )
        counts.append(ready)
    settled_down = counts[240:]
    changes = sum(one != two for one, two in itertools.pairwise(settled_down))
    assert changes <= 2


def test_without_queue_times_the_median_stands_for_the_work() -> None:
    calm = settled(make_policy(SETTINGS), 100, ready=4, queue_time=None, ttft=spread(0.3))[-1]
    late = settled(make_policy(SETTINGS), 100, ready=4, queue_time=None, ttft=spread(1.2))[-1]
    assert calm <= 5
    assert late > calm + 2


def test_a_component_that_has_been_idle_for_the_cool_down_shrinks() -> None:
    policy = make_policy({**SETTINGS, "min": 0})
    ready = settled(policy, 60, ready=4, waiting=50)[-1]
    idle: dict[str, Any] = {"ttft": None, "queue_time": None, "itl": None, "arrivals": 0, "workers": ()}
    answers = [policy.wanted(look(60 + place, ready, **idle)) for place in range(14)]
    assert answers[5] == ready
    assert answers[-1] == 0
