"""Policies of the planner: what they want of what they see."""

from typing import Any

import pytest

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.planner import Latency, Observation, WorkerLoad, make_policy


def slow(seconds: float) -> Latency:
    return Latency(count=20, mean=seconds, p90=seconds)


def test_fixed_says_its_number_within_the_bounds() -> None:
    assert make_policy({"policy": "fixed", "workers": 3}).wanted(Observation(time=0.0)) == 3
    assert make_policy({"policy": "fixed", "workers": 30, "max": 8}).wanted(Observation(time=0.0)) == 8


@pytest.mark.parametrize("figure", ["ttft", "itl"])
def test_a_target_that_is_missed_asks_for_more(figure: str) -> None:
    policy = make_policy({"ttft": 1.0, "itl": 0.05})
    seen: dict[str, Any] = {figure: slow(1.5), "arrivals": 20, "workers": (WorkerLoad(running=9),) * 2}
    for place in range(5):
        wanted = policy.wanted(Observation(time=5.0 * place, ready=2, **seen))
    assert wanted > 2


def test_a_request_without_any_worker_asks_for_one() -> None:
    policy = make_policy({"min": 0})
    assert policy.wanted(Observation(time=0.0)) == 0
    assert policy.wanted(Observation(time=5.0, waiting=1)) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"policy": "lode"}, "no planner policy 'lode'; did you mean 'load'"),
        ({"tftt": 1}, "planner policy 'load' has no setting 'tftt'; did you mean 'ttft'"),
        ({"ttft": -1}, "planner.ttft: Expected `float` > 0"),
        ({"min": 9, "max": 3}, r"planner: min \(9\) is above max \(3\)"),
        ({"policy": "fixed", "workers": "many"}, "planner.workers: Expected `int`, got `str`"),
    ],
)
def test_a_bad_setting_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_policy(given)
