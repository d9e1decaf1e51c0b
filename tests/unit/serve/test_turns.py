"""The pure rules of turns, alone and in a simulation: one is wanted at a time, and nobody waits longer than said."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_tasks.config import ServiceSettings
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.scale import Bounds, ScaledBy
from dynamo_tasks.serve.planning.deployments import bounds_of
from dynamo_tasks.serve.processes.process import ManagedProcess
from dynamo_tasks.serve.scaling.starts import Hang, Starts
from dynamo_tasks.serve.scaling.turns import Member, next_turn

BOUNDS = Bounds(min=0, idle=300.0, share="gpu0", turn=60.0)
RESTS = Member(component="a", bounds=BOUNDS, quiet=10.0)
WAITS = Member(component="b", bounds=BOUNDS, waiting=1, claimed=1.0)
SERVES = Member(component="c", bounds=BOUNDS, wanted=1, at_rest=False, running=1, served=30.0)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([RESTS], None),
        ([RESTS, WAITS], ("b", 1, ScaledBy.QUEUE)),
        ([replace(RESTS, known=False)], ("a", 1, ScaledBy.START)),
        ([replace(RESTS, at_rest=False), WAITS], None),
        ([WAITS, SERVES], None),
        ([WAITS, replace(SERVES, served=60.0)], ("c", 0, ScaledBy.TURN)),
        ([RESTS, replace(SERVES, served=600.0)], None),
        ([WAITS, replace(SERVES, running=0)], ("c", 0, ScaledBy.TURN)),
        ([WAITS, replace(SERVES, running=0, known=False)], None),
        ([WAITS, replace(SERVES, waiting=1, failed=True)], ("c", 0, ScaledBy.TURN)),
        ([RESTS, replace(SERVES, running=0, quiet=301.0)], ("c", 0, ScaledBy.IDLE)),
        ([WAITS, replace(SERVES, running=0, by_hand=True)], None),
        ([replace(WAITS, failed=True), replace(SERVES, running=0)], None),
        ([WAITS, replace(WAITS, component="d", claimed=2.0)], ("d", 1, ScaledBy.QUEUE)),
        ([SERVES, replace(SERVES, component="d")], ("d", 0, ScaledBy.TURN)),
        ([replace(WAITS, by_hand=True)], None),
        # A higher priority is served first, and before what has waited for longer.
        (
            [replace(WAITS, claim_step=9, claimed=9.0), replace(WAITS, component="d", claim_step=3)],
            ("d", 1, ScaledBy.QUEUE),
        ),
        (
            [replace(WAITS, claim_step=9, claimed=601.0), replace(WAITS, component="d")],
            ("b", 1, ScaledBy.QUEUE),
        ),
        # What has lower ones alone to do gives way, once it has had some time; nobody gives way to a lower one.
        ([WAITS, replace(SERVES, work_step=9, served=5.0)], None),
        ([WAITS, replace(SERVES, work_step=9, served=6.0)], ("c", 0, ScaledBy.TURN)),
        ([replace(WAITS, claim_step=9), replace(SERVES, work_step=9)], None),
        ([replace(WAITS, claim_step=9), replace(SERVES, served=61.0)], None),
        ([replace(WAITS, claim_step=9), replace(SERVES, running=0)], ("c", 0, ScaledBy.TURN)),
        (
            [replace(WAITS, claim_step=9, claimed=601.0), replace(SERVES, served=61.0)],
            ("c", 0, ScaledBy.TURN),
        ),
    ],
)
def test_whose_turn_it_is(members: list[Member], expected: tuple[str, int, ScaledBy] | None) -> None:
    decided = next_turn(members)
    assert (decided and (decided[0].component, *decided[1:])) == expected


@dataclass
class Model:
    """A model in virtual time: a start or a drain takes as long as they may at most."""

    name: str
    queue: list[float] = field(default_factory=list)
    wanted: int = 0
    rests_at: float = 0.0
    serves_at: float = 0.0
    rested: float = -1e9
    longest: float = 0.0

    def member(self, now: float) -> Member:
        waits = [at for at in self.queue if at <= now]
        claimed = min(now - min(waits), now - self.rested) if waits else 0.0
        return Member(
            component=self.name, bounds=BOUNDS, wanted=self.wanted, waiting=len(waits), claimed=claimed,
            at_rest=not self.wanted and now >= self.rests_at,
            served=max(0.0, now - self.serves_at) if self.wanted else 0.0,
        )  # fmt: skip


START, DRAIN, STEP, TASK = 20.0, 40.0, 1.0, 10.0


@given(st.lists(st.lists(st.integers(0, 600), max_size=60), min_size=2, max_size=4))
def test_nobody_waits_longer_than_a_turn_of_each_other(arrivals: list[list[int]]) -> None:
    models = {str(n): Model(str(n), sorted(map(float, times))) for n, times in enumerate(arrivals)}
    now, left = 0.0, sum(map(len, arrivals))
    while left:
        now += STEP
        decided = next_turn([one.member(now) for one in models.values()])
        if decided is not None:
            one = models[decided[0].component]
            assert not decided[1] or all(other.rests_at <= now for other in models.values()), "two are awake"
            one.wanted = decided[1]
            if one.wanted:
                one.serves_at = now + START
                one.longest = max(one.longest, now - max(one.queue[0], one.rested))
            else:
                one.rested, one.rests_at = now, now + DRAIN
        assert sum(one.wanted for one in models.values()) <= 1
        for one in models.values():
            if one.wanted and now >= one.serves_at and one.queue and one.queue[0] <= now and now % TASK == 0:
                one.queue.pop(0)
                left -= 1
    bound = (len(models) - 1) * (START + BOUNDS.turn + DRAIN + 4 * STEP) + DRAIN + 4 * STEP
    assert max(one.longest for one in models.values()) <= bound


class FakeProcess:
    """What is asked of a process."""

    pid: int | None = 7


def test_what_does_not_register_hangs() -> None:
    clock = iter(float(second) for second in range(200))
    starts, process = Starts(10.0, lambda: next(clock)), cast(ManagedProcess, FakeProcess())

    def until_hang(*, heard: bool = False) -> tuple[int, list[Hang]]:
        found: list[Hang] = []
        return next(
            n for n in range(1, 90) if (found := starts.look([process], [process] if heard else []))
        ), found

    assert until_hang() == (
        11,
        [Hang(process, served=False, reason="did not serve within 10 s of its start")],
    )
    process.pid = 8
    starts.look([process], [process])
    assert until_hang() == (10, [Hang(process, served=True, reason="was not heard of for 10 s")])
    process.pid = 9
    assert until_hang()[0] == 11, "a new run has all of its time"


def test_time_in_which_nobody_looked_does_not_count() -> None:
    clock = iter([0.0, 1.0, 500.0, 501.0])
    starts, process = Starts(10.0, lambda: next(clock)), cast(ManagedProcess, FakeProcess())
    assert [starts.look([process], []) for _ in range(3)] == [[], [], []]


def test_a_start_may_take_a_quarter_of_an_hour_where_others_wait_for_the_device() -> None:
    def start(**scale: object) -> float:
        bounds = bounds_of(ServiceSettings(name="Worker", scale=scale))
        assert bounds is not None
        return bounds.start

    assert (start(min=0), start(min=0, start=5.0)) == (0.0, 5.0)
    assert (start(min=0, share="gpu0"), start(min=0, share="gpu0", start=5.0)) == (900.0, 5.0)


@pytest.mark.parametrize(
    ("scale", "text"),
    [
        ({"share": "gpu0", "min": 1}, "needs scale.min: 0"),
        ({"min": 0, "turn": 5.0}, "scale.turn is for models that share a device"),
    ],
)
def test_what_cannot_take_turns_is_refused(scale: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        bounds_of(ServiceSettings(name="Worker", scale=scale))
    planned = ServiceSettings(name="Worker", scale={"share": "gpu0", "min": 0}, planner={})
    with pytest.raises(ConfigError, match="can have no planner"):
        bounds_of(planned)
