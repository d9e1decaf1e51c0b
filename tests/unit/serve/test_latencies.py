"""Latencies out of a frontend's metrics."""

from __future__ import annotations

import pytest

from dynamo_tasks.serve.scaling.latencies import growth, read_histogram

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
