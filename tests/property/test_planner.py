"""Promises of the planner that hold for any load: bounds, steps, cool-down."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamo_tasks.planner import Latency, Observation, WorkerLoad, make_policy

seconds = st.floats(0, 30)
latencies = st.none() | st.builds(Latency, count=st.integers(1, 99), mean=seconds, p90=seconds)
loads = st.builds(
    WorkerLoad,
    running=st.integers(0, 300),
    slots=st.just(256),
    kv_usage=st.floats(0, 1),
    queued_tokens=st.integers(0, 500_000),
)
looks = st.fixed_dictionaries(
    {
        "waiting": st.integers(0, 1000),
        "oldest_wait": seconds,
        "workers": st.lists(loads, max_size=8).map(tuple),
        "arrivals": st.integers(0, 1000),
        "prompt_tokens": st.integers(0, 10_000_000),
        "output_tokens": st.integers(0, 100_000),
        "ttft": latencies,
        "queue_time": latencies,
        "itl": latencies,
    }
)
LIMITS = {"min": 1, "max": 12, "step": 3, "cool_down": 40.0, "interval": 5.0}


@given(st.lists(st.tuples(looks, st.booleans()), max_size=40))
def test_every_answer_is_within_the_bounds_and_a_step(seen: list[tuple[dict[str, object], bool]]) -> None:
    policy, live = make_policy(LIMITS), 1
    for place, (look, obeys) in enumerate(seen):
        wanted = policy.wanted(Observation(time=5.0 * place, ready=live, **look))  # type: ignore[arg-type]
        assert 1 <= wanted <= 12
        assert abs(wanted - live) <= 3
        live = wanted if obeys else live


@given(st.lists(looks, max_size=60))
def test_nobody_goes_within_the_cool_down_of_one_who_came(seen: list[dict[str, object]]) -> None:
    policy, live, came = make_policy(LIMITS), 4, -5.0
    for place, look in enumerate(seen):
        time = 5.0 * place
        wanted = policy.wanted(Observation(time=time, ready=live, **look))  # type: ignore[arg-type]
        if wanted < live:
            assert time - came >= 40.0
        if wanted > live:
            came = time
        live = wanted
