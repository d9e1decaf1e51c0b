"""Dynamo's rules: its thresholds and numbers, one by one."""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.planner import ForwardPass, Observation, WorkerLoad, make_policy
from dynamo_tasks.planner.dynamo import DynamoSettings, SlaPolicy
from dynamo_tasks.planner.dynamo.engine_model import EngineModel
from dynamo_tasks.planner.dynamo.predictors import Constant, Kalman

KV = 1_000_000


def loads(*used: float, queued: int = 0) -> tuple[WorkerLoad, ...]:
    return tuple(WorkerLoad(kv_usage=share, kv_tokens=KV, queued_tokens=queued) for share in used)


@pytest.mark.parametrize(
    ("target", "used", "queued", "wanted"),
    [
        (
            "throughput",
            (0.9, 0.5),
            200_000,
            3,
        ),  # one engine holds more than 100 %, the queue of prompts included
        ("throughput", (0.9, 0.5), 0, 2),
        ("throughput", (0.59, 0.5), 0, 1),  # all below 60 %
        ("throughput", (0.6, 0.5), 0, 2),
        ("latency", (0.41, 0.0), 0, 3),
        ("latency", (0.4, 0.0), 0, 2),
        ("latency", (0.09, 0.05), 0, 1),
        ("latency", (0.1, 0.05), 0, 2),
    ],
)
def test_thresholds(target: str, used: tuple[float, ...], queued: int, wanted: int) -> None:
    policy = make_policy({"policy": f"dynamo-{target}"})
    assert policy.wanted(Observation(time=0.0, ready=2, workers=loads(*used, queued=queued))) == wanted


@pytest.mark.parametrize("policy", ["dynamo-throughput", "dynamo-latency", "dynamo-load"])
def test_while_a_worker_starts_they_only_observe(policy: str) -> None:
    seen = Observation(time=0.0, ready=2, starting=1, workers=loads(1.0, 1.0, queued=KV))
    assert make_policy({"policy": policy}).wanted(seen) == 3


def test_the_defaults_are_dynamos() -> None:
    given = DynamoSettings()
    assert (given.ttft, given.itl, given.min, given.max) == (0.5, 0.05, 1, 8)
    assert (given.throughput_adjustment_interval, given.load_adjustment_interval) == (180, 5)
    assert (given.load_scaling_down_sensitivity, given.load_min_observations) == (80, 5)
    assert (given.max_num_fpm_samples, given.fpm_sample_bucket_size) == (64, 16)
    assert (given.enable_throughput_scaling, given.enable_load_scaling) == (True, False)
    assert given.optimization_target == "throughput"


# -- the model of the engine ----------------------------------------------------------------------


def step(prefill: int, context: int, decodes: int = 10) -> ForwardPass:
    """A step of an engine that is as linear as the model: 10 ms, 20 ms per 1,000 tokens, 1 ms per 10,000."""
    return ForwardPass(
        seconds=0.01 + 2e-5 * prefill + 1e-7 * context, prefill_tokens=prefill, prefills=int(prefill > 0),
        decode_kv_tokens=context, decodes=decodes,
    )  # fmt: skip


def grid() -> list[ForwardPass]:
    return [step(prefill, context) for prefill in (0, 2000, 4000, 8000) for context in (0, 100_000, 200_000)]


def test_the_regression_finds_a_linear_engine() -> None:
    model = EngineModel(DynamoSettings())
    for one in grid()[:4]:
        model.add(one)
    assert not model.ready  # five at least
    for one in grid()[4:]:
        model.add(one)
    assert model.ready
    assert model.step(1000, 50_000) == pytest.approx(0.01 + 0.02 + 0.005, rel=1e-6)


def test_a_model_by_which_more_load_takes_less_time_is_refused() -> None:
    model = EngineModel(DynamoSettings())
    for prefill in range(0, 6000, 1000):
        model.add(ForwardPass(seconds=0.1 - prefill / 1e5, prefill_tokens=prefill, prefills=1))
    assert not model.ready


def test_the_oldest_of_the_fullest_bucket_goes_first() -> None:
    model = EngineModel(DynamoSettings())
    for one in grid():
        model.add(one)
    for place in range(500):  # a long time of one kind of load, on an engine that has become slower
        model.add(ForwardPass(seconds=0.012 + place * 1e-9, prefill_tokens=0, decode_kv_tokens=0))
    assert model.ready
    assert model.step(8000, 0) == pytest.approx(0.17, rel=0.1)


def test_a_time_to_the_first_token_is_that_of_the_steps_before_it() -> None:
    model = EngineModel(DynamoSettings())
    for one in grid():
        model.add(one)
    assert model.ready
    # 6,000 tokens ahead and a prompt as long as the mean, 14,000 / 3: two steps.
    expected = model.step(8192, 0) + model.step(6000 + 14_000 / 3 - 8192, 0)
    assert model.ttft(6000, 0) == pytest.approx(expected)
    assert model.ttft(6000, 0, hit_rate=0.5) < expected


def sla(**settings: Any) -> SlaPolicy:
    policy = make_policy({"policy": "dynamo-load", **settings})
    assert isinstance(policy, SlaPolicy)
    policy.sweep([*grid(), *[step(500, 10_000)] * 60])
    return policy


def engine(queued: int = 0, context: int = 10_000) -> WorkerLoad:
    return WorkerLoad(queued_tokens=queued, kv_tokens=KV, step=step(1000, context))


@pytest.mark.parametrize(
    ("workers", "wanted"),
    [
        ((engine(30_000), engine(30_000)), 3),  # all estimates above the target
        ((engine(30_000), engine()), 2),  # one is not
        ((engine(), engine()), 1),
        ((engine(context=150_000), engine(context=150_000)), 2),  # alone it would have twice the context
        ((engine(context=600_000), engine(context=600_000)), 3),  # ITL above the target
    ],
)
def test_the_load_part(workers: tuple[WorkerLoad, ...], wanted: int) -> None:
    assert sla().wanted(Observation(time=5.0, ready=2, workers=workers)) == wanted


def test_the_throughput_part_divides_the_predicted_rate_by_that_of_one_engine() -> None:
    policy = sla(enable_throughput_scaling=True, enable_load_scaling=False, max=100)
    model = EngineModel(DynamoSettings())
    for one in [*grid(), *[step(500, 10_000)] * 60]:
        model.add(one)
    arrived = {"arrivals": 100, "prompt_tokens": 100 * 2000, "output_tokens": 100 * 200}
    answers = []
    for place in range(1, 37):
        workers = (WorkerLoad(kv_tokens=KV),)
        answers.append(policy.wanted(Observation(time=5.0 * place, ready=1, workers=workers, **arrived)))
    assert answers[:-1] == [1] * 35
    assert model.ready
    rate = model.best_rate(2000, 200, KV, 0.0)
    assert answers[-1] == -(-20 // rate)


def test_with_both_parts_the_throughput_part_is_the_floor() -> None:
    policy = sla(enable_throughput_scaling=True, max=100)
    arrived = {"arrivals": 400, "prompt_tokens": 400 * 2000, "output_tokens": 400 * 200}
    idle = (engine(), engine())
    for place in range(1, 37):
        wanted = policy.wanted(Observation(time=5.0 * place, ready=2, workers=idle, **arrived))
    assert wanted > 3


def test_predictors() -> None:
    constant, kalman = Constant(), Kalman()
    for place in range(30):
        constant.add(10.0 * place)
        kalman.add(10.0 * place)
    assert constant.next() == 290
    assert kalman.next() == pytest.approx(300, abs=6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"policy": "dynamo-sla", "load_predictor": "arma"}, "no predictor 'arma'"),
        (
            {"policy": "dynamo-sla", "load_scaling_down_sensitivity": 101},
            "load_scaling_down_sensitivity: Expected",
        ),
        ({"policy": "dynamo-load", "enable_load_scaling": False}, "one of enable_throughput_scaling and"),
        (
            {"policy": "dynamo-sla", "throughput_adjustment_interval": 5},
            "must be below throughput_adjustment_inter",
        ),
    ],
)
def test_a_bad_setting_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_policy(given)
