"""Bounds and patience of the planner; how it smooths and counts."""

from __future__ import annotations

import random

import pytest

from dynamo_tasks.planner import Latency
from dynamo_tasks.planner.forecast import Forecast, Smoothed
from dynamo_tasks.planner.latency import LatencyWindow
from dynamo_tasks.planner.limits import Limits, Patience


def test_up_at_once_and_within_a_step() -> None:
    patience = Patience(Limits(max=10, step=3))
    assert patience.decide(0.0, 2, 7.0) == 5
    assert patience.decide(5.0, 9, 30.0) == 10


def test_down_only_when_less_was_enough_for_the_cool_down() -> None:
    patience = Patience(Limits(cool_down=30.0))
    answers = [patience.decide(5.0 * place, 6, 6.0 if place == 4 else 3.0) for place in range(12)]
    assert answers == [6] * 11 + [4]  # the crest at 20 s counts until 50 s


@pytest.mark.parametrize(("need", "wanted"), [(4.3, 4), (4.5, 5), (2.9, 4), (2.7, 3)])
def test_a_need_between_two_numbers_moves_nobody(need: float, wanted: int) -> None:
    assert Patience(Limits(cool_down=0.0)).decide(0.0, 4, need) == wanted


def test_a_forecast_follows_a_slope_and_calms_noise() -> None:
    slope, noise, dice = Forecast(60.0, 300.0), Forecast(60.0, 300.0), random.Random(1)
    for place in range(400):
        slope.add(10 + 0.01 * 5 * place, 5.0)
        noise.add(10 + dice.gauss(0, 2), 5.0)
    assert slope.ahead(60.0) == pytest.approx(10 + 0.01 * (2000 + 60), rel=0.02)
    assert noise.ahead(60.0) == pytest.approx(10, abs=1.5)


def test_a_mean_forgets() -> None:
    mean = Smoothed(60.0)
    assert mean.value is None
    mean.add(100.0, 1.0, 5.0)
    for _ in range(120):
        mean.add(1.0, 1.0, 5.0)
    assert mean.value == pytest.approx(1.0, abs=0.1)


def test_times_add_up_over_looks() -> None:
    window, dice = LatencyWindow(1e9), random.Random(1)
    times = [dice.expovariate(2.0) for _ in range(4000)]
    for place in range(0, 4000, 40):
        seen = Latency.of(times[place : place + 40])
        assert seen is not None
        window.add(seen, 5.0)
    for bound in (0.1, 0.5, 1.5):
        assert window.over(bound) == pytest.approx(sum(time > bound for time in times) / 4000, abs=0.015)
    assert window.quantile(0.9) == pytest.approx(sorted(times)[3600], rel=0.05)
    assert Latency.of([]) is None


def test_a_percentile_alone_is_taken_for_an_exponential_distribution() -> None:
    window = LatencyWindow(600.0)
    window.add(Latency(count=100, mean=0.4, p90=1.0), 5.0)
    assert window.over(1.0) == pytest.approx(0.1, abs=0.01)
    assert window.over(2.0) == pytest.approx(0.01, abs=0.005)
