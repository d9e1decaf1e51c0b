"""Latencies out of a frontend's metrics, and out of the loads of workers."""

from __future__ import annotations

from bisect import bisect_left

import msgspec
import pytest

from dynamo_tasks.planner import BOUNDS, LatencyCounts
from dynamo_tasks.protocol.instances import Load
from dynamo_tasks.serve.scaling.latencies import growth, queue_times, read_histogram

TEXT = """
# HELP x_seconds Times.
x_seconds_bucket{{le="0.1",model="a"}} {0}
x_seconds_bucket{{le="0.5",model="a"}} {1}
x_seconds_bucket{{le="+Inf",model="a"}} {1}
x_seconds_count{{model="a"}} {1}
x_seconds_sum{{model="a"}} {2}
x_seconds_bucket{{le="0.1",model="b"}} 99.0
x_seconds_created{{model="a"}} 1.7e+09
"""


def test_growth_is_of_the_models_and_of_the_time_between() -> None:
    old = read_histogram(TEXT.format(1.0, 1.0, 0.05), "x_seconds", ["a"])
    new = read_histogram(TEXT.format(6.0, 11.0, 2.05), "x_seconds", ["a"])
    found = growth(new, old)
    assert found is not None
    assert (found.count, found.mean) == (10, pytest.approx(0.2))
    assert found.p90 == pytest.approx(0.1 + 0.4 * 4 / 5)
    assert growth(new, new) is None
    assert growth(old, new) is None


def reported(*times: float, engine: float = 0.0) -> Load:
    counts = LatencyCounts()
    for time in times:
        counts.add(time)
    load = Load(waits=counts.counts, waited_s=counts.seconds, engine_waited_s=engine)
    return Load.decode(msgspec.json.encode(load))


def test_queue_times_are_those_since_the_last_look_of_all_instances() -> None:
    old = {1: reported(*[30.0] * 50), 9: reported(60.0)}
    new = {1: reported(*[30.0] * 50, *[0.2] * 9), 2: reported(4.0, -0.1)}
    found = queue_times(new, old)
    assert found is not None
    assert (found.count, found.mean) == (11, pytest.approx((9 * 0.2 + 4.0) / 11))
    assert 0.1 < found.p90 < 0.3
    assert sum(found.buckets[bisect_left(BOUNDS, 3.0) :]) == 1
    assert queue_times(new, new) is None
    assert queue_times({3: Load(in_flight=1)}, old) is None


def test_a_wait_inside_of_engines_is_added() -> None:
    found = queue_times({1: reported(*[0.0] * 10, engine=20.0)}, {1: reported()})
    assert found is not None
    assert found.mean == pytest.approx(2.0)
    assert 1.4 < found.p90 < 2.9
    assert not any(found.buckets[: bisect_left(BOUNDS, 1.0)])
