"""Fleets whose size a planner decides, in virtual time."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.clairvoyant import choices, least_hours
from benchmarks.planner_replay import Scenario, Targets, flaps, planned, settings_of, verdict
from benchmarks.replay import main
from benchmarks.replay_policies import CHANGING
from benchmarks.scaled_fleet import Action, ScaledFleet, ScaledOutcome
from benchmarks.traces import TracedRequest, day
from benchmarks.virtual_fleet import FleetArgs, polynomial
from dynamo_tasks.planner import Observation

FLEET = FleetArgs(workers=2, blocks=2048, block_size=512)


class Script:
    """A policy that says what it is told to, and notes what it sees."""

    interval = 5.0

    def __init__(self, say: Callable[[float], int]):
        self._say = say
        self.seen: list[Observation] = []

    def wanted(self, seen: Observation) -> int:
        self.seen.append(seen)
        return self._say(seen.time)


def poisson(seconds: float, rate: Callable[[float], float], seed: int = 1) -> list[TracedRequest]:
    """Requests of 4,000 tokens and 100 of output, all different."""
    dice, at, requests = random.Random(seed), 0.0, []
    while (at := at + dice.expovariate(rate(at))) < seconds:
        requests.append(TracedRequest(at, 4000, 100, [8 * len(requests) + place for place in range(8)]))
    return requests


def scripted(say: Callable[[float], int], start_up: float = 20.0) -> tuple[ScaledOutcome, Script]:
    policy = Script(say)
    fleet = ScaledFleet(FLEET, policy, start_up)
    return fleet.replay(poisson(120, lambda at: 4.0), CHANGING["cheapest"]), policy


def test_a_fleet_that_nobody_changes_costs_its_time() -> None:
    outcome, _ = scripted(lambda at: 2)
    assert outcome.worker_seconds == pytest.approx(2 * outcome.seconds)
    assert outcome.actions == []


def test_a_worker_costs_from_the_decision_and_serves_after_its_start() -> None:
    outcome, policy = scripted(lambda at: 3 if at >= 50 else 2)
    assert outcome.actions == [Action(50, 1)]
    assert outcome.worker_seconds == pytest.approx(2 * outcome.seconds + outcome.seconds - 50)
    assert [one.starting for one in policy.seen if 50 < one.time <= 65] == [1, 1, 1]
    served = [one.sent for one in outcome.arrivals if one.worker == 2]
    assert 70 <= min(served) < 80


def test_a_worker_that_goes_ends_what_it_has() -> None:
    outcome, policy = scripted(lambda at: 1 if at >= 50 else 2)
    assert all(one.request.at < one.first <= one.last for one in outcome.arrivals)
    assert max(one.ready + one.draining for one in policy.seen if one.time > 50) <= 2
    gone = max(one.last for one in outcome.arrivals if one.worker != outcome.arrivals[-1].worker)
    assert gone > 50
    assert outcome.worker_seconds == pytest.approx(outcome.seconds + gone)


def test_one_that_starts_is_taken_first() -> None:
    outcome, policy = scripted(lambda at: 3 if 20 <= at < 30 else 2)
    assert outcome.worker_seconds == pytest.approx(2 * outcome.seconds + 10)
    assert max(one.draining for one in policy.seen) == 0


def test_requests_wait_for_the_first_worker() -> None:
    policy = Script(lambda at: 1)
    outcome = ScaledFleet(FLEET._replace(workers=0), policy, 20.0).replay(
        [TracedRequest(1.0, 1000, 3, [1, 2])], CHANGING["cheapest"]
    )
    [one] = outcome.arrivals
    assert one.sent == 25.0
    assert (policy.seen[0].waiting, policy.seen[0].oldest_wait) == (1, 4.0)


def test_what_a_policy_sees_is_what_happens() -> None:
    outcome, policy = scripted(lambda at: 2)
    early = [one for one in outcome.arrivals if one.request.at <= 5.0]
    seen = policy.seen[0]
    assert (seen.arrivals, seen.prompt_tokens) == (len(early), 4000 * len(early))
    assert sum(one.ttft.count for one in policy.seen if one.ttft) <= len(outcome.arrivals)
    own = polynomial(4000, 0, 0.0)
    for one in policy.seen:
        if one.ttft is not None and one.queue_time is not None:
            assert one.ttft.mean - one.queue_time.mean >= own - 1e-9


def test_a_day_has_a_night_and_a_noon() -> None:
    flat = [TracedRequest(place * 0.5, 10, 1, [place % 7]) for place in range(1000)]
    shaped = [*day(flat, hours=1.0, swing=5.0)]
    assert len(shaped) == pytest.approx(7200, abs=20)
    assert [one.at for one in shaped] == sorted(one.at for one in shaped)
    noon = sum(1700 <= one.at < 1900 for one in shaped)
    night = sum(one.at < 100 or one.at >= 3500 for one in shaped)
    assert noon / night == pytest.approx(5.0, rel=0.15)
    assert set(shaped[0].ids).isdisjoint(shaped[-1].ids)  # repeated, but never found in a cache


def test_a_flap_is_a_change_that_undoes_the_last() -> None:
    assert flaps([Action(0, 2), Action(100, -1), Action(200, -1), Action(390, 1)]) == 1


def test_planners_are_named_with_their_settings() -> None:
    scenario = Scenario([], FLEET, CHANGING["cheapest"], Targets(2.0, 0.1), 12, 30.0)
    assert settings_of("load:goal=0.9:step=3", scenario) == {
        "policy": "load", "max": 12, "start_up": 30.0, "ttft": 2.0, "itl": 0.1, "goal": 0.9, "step": 3,
    }  # fmt: skip
    assert settings_of("fixed:5", scenario) == {"policy": "fixed", "max": 12, "workers": 5}
    assert settings_of("dynamo-latency", scenario) == {"policy": "dynamo-latency", "max": 12}


def test_load_brings_a_fleet_to_its_size_and_leaves_it_there() -> None:
    scenario = Scenario(
        poisson(300, lambda at: 6.0), FLEET, CHANGING["cheapest"], Targets(0.5, 0.05), 8, 20.0
    )
    figures = verdict(planned(scenario, settings_of("load", scenario)), scenario.targets)
    assert figures["attained"] > 0.9
    assert figures["mean_workers"] < 4
    assert figures["flaps"] == 0


def test_the_command_compares_planners(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "trace.jsonl.gz", tmp_path / "figures.json"
    with gzip.open(path, "wt") as file:
        for one in poisson(20, lambda at: 4.0):
            row = {"timestamp": 1000 * one.at, "input_length": one.prompt, "output_length": one.output}
            file.write(json.dumps({**row, "hash_ids": one.ids}) + "\n")
    given = ["--planner", "load,dynamo-sla,fixed:3", "--hours", "0.01", "--speedup", "1,2", "--out", str(out)]
    assert main([str(path), *given]) == 0
    assert capsys.readouterr().out.count("| fixed:3 |") == 2
    assert {row["planner"] for row in json.loads(out.read_text())} == {"load", "dynamo-sla", "fixed:3"}


def test_a_clairvoyant_planner_has_workers_where_they_keep_something() -> None:
    arrived = Counter({0: 10, 1: 10})
    kept = {1: Counter({0: 9, 1: 2}), 2: Counter({0: 9, 1: 8}), 3: Counter({0: 10, 1: 9})}
    found = choices(kept, arrived)
    assert [(round(one.kept, 2), round(60 * one.hours)) for one in found] == [
        (0.55, 2),
        (0.85, 3),
        (0.9, 4),
        (0.95, 6),
    ]
    assert [round(60 * least_hours(found, share), 1) for share in (0.1, 0.7, 0.85, 0.99)] == [2, 2.5, 3, 6]
