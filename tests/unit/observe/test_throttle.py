"""A line that would repeat is told once, and then at most once per period."""

from __future__ import annotations

from dynamo_tasks.observe.throttle import LogThrottle


def test_the_first_then_one_per_period() -> None:
    now = 0.0
    calm = LogThrottle(5.0, clock=lambda: now)
    told = []
    for tenth in range(120):
        now = tenth / 10
        if calm.due():
            told.append(now)
    assert told == [0.0, 5.0, 10.0]
    assert calm.count == 120
