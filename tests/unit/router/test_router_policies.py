"""Every policy chooses as it says, and says clearly when it cannot."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from dynamo_tasks.errors import ConfigError, NoInstancesError
from dynamo_tasks.protocol.instances import Load
from dynamo_tasks.router import POLICIES, Candidate, make_router


def some(*in_flight: int, capacity: int = 8) -> list[Candidate]:
    return [
        Candidate(index + 1, Load(in_flight=count, capacity=capacity))
        for index, count in enumerate(in_flight)
    ]


def test_round_robin_takes_turns_while_instances_come_and_go():
    router = make_router("round_robin")
    three = some(0, 0, 0)
    assert [router.choose(three).instance_id for _ in range(4)] == [1, 2, 3, 1]
    assert router.choose([three[2], three[0]]).instance_id == 3
    assert router.choose(list(reversed(three))).instance_id == 1


def test_random_reaches_everyone():
    router = make_router("random", random.Random(1))
    counts = Counter(router.choose(some(0, 0, 0)).instance_id for _ in range(3000))
    assert all(800 < counts[instance] < 1200 for instance in (1, 2, 3))


def test_least_loaded_compares_shares_and_breaks_ties_evenly():
    router = make_router("least-loaded", random.Random(1))
    small_idle, big_busy = Candidate(1, Load(2, 4)), Candidate(2, Load(10, 256))
    assert router.choose([small_idle, big_busy]) is big_busy
    assert {router.choose(some(1, 0, 0)).instance_id for _ in range(50)} == {2, 3}
    waiting = [Candidate(1, Load(1, 8, waiting=3)), Candidate(2, Load(1, 8, kv_usage=0.9))]
    assert router.choose(waiting).instance_id == 2
    unknown = [Candidate(1, Load(3)), Candidate(2, Load(2))]
    assert router.choose(unknown).instance_id == 2


def test_power_of_two_never_takes_the_worst():
    router = make_router("power_of_two", random.Random(1))
    assert {router.choose(some(8, 1, 2)).instance_id for _ in range(100)} == {2, 3}
    assert router.choose(some(5)).instance_id == 1


def test_direct():
    router = make_router("direct")
    assert router.choose(some(0, 0), instance_id=2).instance_id == 2
    with pytest.raises(NoInstancesError, match=r"instance ff does not live any more \(live: 1, 2\)"):
        router.choose(some(0, 0), instance_id=255)
    with pytest.raises(NoInstancesError, match="live: none"):
        router.choose([], instance_id=255)
    with pytest.raises(ConfigError, match="needs an instance_id"):
        router.choose(some(0))


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "direct"])
def test_nobody_there(name):
    with pytest.raises(NoInstancesError):
        make_router(name).choose([])


@pytest.mark.parametrize(
    ("name", "part"), [("randm", "did you mean 'random'"), ("", "known: direct"), (None, "None")]
)
def test_unknown_policy(name, part):
    with pytest.raises(ConfigError, match=part):
        make_router(name)


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in ("direct", "round_robin")])
def test_same_seed_same_choices(name):
    def run() -> list[int]:
        router = make_router(name, random.Random(7))
        return [router.choose(some(1, 1, 1)).instance_id for _ in range(20)]

    assert run() == run()
