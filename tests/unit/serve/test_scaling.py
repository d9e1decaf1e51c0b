"""The pure rules of scaling: shares of several ``serve``, and what requests ask for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.scale import Bounds, Fleet, Scale, ScaledBy
from dynamo_tasks.serve.scaling.demand import Demand, next_wanted
from dynamo_tasks.serve.scaling.shares import share_out

FLEETS = st.dictionaries(
    st.sampled_from("abcd"),
    st.builds(Fleet, running=st.integers(0, 4), most=st.none() | st.integers(0, 6)),
    min_size=1,
)


@given(st.integers(0, 12), FLEETS)
def test_shares_are_what_is_wanted_as_far_as_devices_go(wanted: int, fleets: dict[str, Fleet]) -> None:
    shares = share_out(wanted, fleets)
    assert sum(shares.values()) <= wanted
    full = all(
        fleet.most is not None and shares[name] >= max(fleet.most, min(fleet.size, shares[name]))
        for name, fleet in fleets.items()
    )
    assert sum(shares.values()) == wanted or full


@given(st.integers(0, 12), FLEETS)
def test_nobody_starts_where_another_one_has_too_many(wanted: int, fleets: dict[str, Fleet]) -> None:
    changes = [share - fleets[name].size for name, share in share_out(wanted, fleets).items()]
    assert all(change >= 0 for change in changes) or all(change <= 0 for change in changes)


def test_a_serve_that_cannot_start_any_comes_last() -> None:
    assert share_out(1, {"a": Fleet(failed=True), "b": Fleet()}) == {"a": 0, "b": 1}


BOUNDS = Bounds(min=0, max=4, idle=60.0, workers=2)
ASLEEP = Scale("Worker", wanted=0, by=ScaledBy.IDLE)
AWAKE = Scale("Worker", wanted=2, by=ScaledBy.QUEUE)
QUIET = Demand(quiet=61.0, known=True)


@pytest.mark.parametrize(
    ("scale", "seen", "expected"),
    [
        (Scale("Worker"), Demand(known=True), (0, ScaledBy.START)),
        (Scale("Worker"), Demand(known=False), (2, ScaledBy.START)),
        (Scale("Worker"), Demand(known=True, waiting=1), (2, ScaledBy.START)),
        (ASLEEP, QUIET, None),
        (ASLEEP, Demand(known=True, waiting=1), (2, ScaledBy.QUEUE)),
        (AWAKE, Demand(known=True, quiet=59.0), None),
        (AWAKE, QUIET, (0, ScaledBy.IDLE)),
        (AWAKE, replace(QUIET, known=False), None),
        (AWAKE, Demand(known=True, running=1, quiet=0.0, planned=3), (3, ScaledBy.PLANNER)),
        (AWAKE, Demand(known=True, quiet=1.0, planned=0), (1, ScaledBy.PLANNER)),
        (AWAKE, Demand(known=True, planned=9), (4, ScaledBy.PLANNER)),
        (Scale("Worker", wanted=0, by=ScaledBy.HAND), Demand(known=True, waiting=5), None),
        (Scale("Worker", wanted=3, by=ScaledBy.HAND), QUIET, None),
    ],
)
def test_what_requests_ask_for(scale: Scale, seen: Demand, expected: tuple[int, ScaledBy] | None) -> None:
    assert next_wanted(scale, BOUNDS, seen) == expected


def test_without_idle_or_planner_nothing_changes_by_itself() -> None:
    fixed = Bounds(min=1, max=4, workers=2)
    assert next_wanted(Scale("Worker"), fixed, Demand(waiting=99)) is None


def test_bounds_say_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match="Worker: 5 instances are not allowed; its `scale` allows 0 to 4"):
        BOUNDS.check("Worker", 5)
    with pytest.raises(ConfigError, match="allows 2 or more"):
        Bounds(min=2).check("Worker", 1)
