"""What was sent since the last snapshot counts as load."""

from __future__ import annotations

import pytest

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.instances import Load
from dynamo_tasks.router import Candidate, LeastLoaded, Recent
from dynamo_tasks.services.router import Router


def test_requests_between_two_snapshots_are_spread() -> None:
    recent, policy, snapshot = Recent(), LeastLoaded(), {1: Load(in_flight=2), 2: Load()}
    chosen = []
    for _ in range(6):
        candidates = [Candidate(number, load) for number, load in snapshot.items()]
        chosen.append(policy.choose(recent.adjust(candidates, snapshot)).instance_id)
        recent.sent(chosen[-1])
    assert chosen[:2] == [2, 2]
    assert sorted(chosen) == [1, 1, 2, 2, 2, 2]
    assert snapshot[2].in_flight == 0


def test_a_new_snapshot_knows_by_itself() -> None:
    recent = Recent()
    recent.sent(1)
    assert recent.adjust([Candidate(1, Load(in_flight=1))], {}) == [Candidate(1, Load(in_flight=1))]


def test_a_policy_that_cannot_choose_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Router.inner, "policy", "direct")
    with pytest.raises(ConfigError, match="allowed: random, round_robin, power_of_two, least_loaded"):
        Router.check_settings()
