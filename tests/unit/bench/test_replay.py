"""Replay of traces in virtual time."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from benchmarks.replay import main, replay, summary
from benchmarks.replay_policies import POLICIES
from benchmarks.traces import TracedRequest, read_trace
from benchmarks.virtual_fleet import FleetArgs, polynomial

FLEET = FleetArgs(workers=2, blocks=512, block_size=64)


def trace_of(folder: Path, rows: list[tuple[int, int, int, list[int]]]) -> Path:
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    path = folder / "trace.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    return path


def conversation(folder: Path, users: int = 12, turns: int = 8) -> Path:
    """Users that come again with all that was said before."""
    rows = []
    for turn in range(turns):
        for user in range(users):
            ids = [0, *(1 + 100 * user + place for place in range(2 * turn + 2))]
            rows.append((turn * 900 + user * 60, 512 * len(ids) - 100, 40, ids))
    return trace_of(folder, rows)


def test_a_prompt_shares_blocks_as_far_as_its_ids_are_those_of_another() -> None:
    first, second = TracedRequest(0, 1000, 1, [7, 8]), TracedRequest(0, 1024, 1, [7, 9])
    assert len(first.hashes(64)) == 15
    assert len(second.hashes(64)) == 16
    assert first.hashes(64)[:8] == second.hashes(64)[:8]
    assert not set(first.hashes(64)[8:]) & set(second.hashes(64)[8:])


def test_a_step_takes_as_long_as_in_dynamos_mocker() -> None:
    assert polynomial(0, 0, 0.0) == 0
    assert polynomial(1000, 0, 0.0) == pytest.approx(0.0321058, rel=1e-4)
    assert polynomial(0, 9, 0.5) == pytest.approx((-25.74 / 4 + 54.01 / 2 + 5.74) / 1000)


def test_a_request_alone_waits_for_its_own_steps(tmp_path: Path) -> None:
    path = trace_of(tmp_path, [(1000, 1000, 3, [0, 1])])
    outcome = replay(path, "round_robin", FLEET)
    [one] = outcome.arrivals
    assert one.first - 1.0 == pytest.approx(polynomial(1000, 0, 0.0))
    assert one.last == outcome.seconds == pytest.approx(one.first + 2 * polynomial(0, 1, 16 / 512))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_is_answered_once(policy: str, tmp_path: Path) -> None:
    outcome = replay(conversation(tmp_path), policy, FLEET, speedup=4)
    assert len(outcome.arrivals) == 96
    for one in outcome.arrivals:
        assert one.request.at <= one.sent < one.first <= one.last
        assert 0 <= one.cached < one.request.prompt


@pytest.mark.parametrize("policy", ["dynamo_kv", "kv", "kv_late"])
def test_policies_that_look_at_caches_reuse_more(policy: str, tmp_path: Path) -> None:
    path = conversation(tmp_path, users=11)
    blind, seeing = (summary(replay(path, name, FLEET)) for name in ("round_robin", policy))
    assert seeing["reuse"] > 1.2 * blind["reuse"]
    assert seeing["ttft_mean_ms"] < blind["ttft_mean_ms"]


def test_nobody_waits_much_longer_than_if_all_went_in_their_order(tmp_path: Path) -> None:
    # One user's requests fit the cache; the other's never do, and are as many.
    rows = [
        (place * 20, 20_000, 200, list(range(900 * (place % 2), 900 * (place % 2) + 40)))
        for place in range(60)
    ]
    path = trace_of(tmp_path, rows)
    late = replay(path, "kv_late", FleetArgs(workers=1, blocks=1024, block_size=64))
    in_order = sorted(one.sent for one in late.arrivals)
    longest = max(sent - one.request.at for sent, one in zip(in_order, late.arrivals, strict=True))
    assert summary(late)["longest_wait_s"] <= 1.2 * longest


def test_a_run_repeated_is_the_same(tmp_path: Path) -> None:
    path = conversation(tmp_path)
    assert summary(replay(path, "dynamo_kv", FLEET)) == summary(replay(path, "dynamo_kv", FLEET))


def test_the_command_prints_a_table_and_writes_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = conversation(tmp_path)
    out = tmp_path / "figures.json"
    assert (
        main(
            [
                str(path),
                "--workers",
                "2",
                "--speedup",
                "1,4",
                "--policy",
                "kv",
                "--requests",
                "20",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert [row["speedup"] for row in json.loads(out.read_text())] == [1, 4]
    assert capsys.readouterr().out.count("| kv |") == 2
    assert len(list(read_trace(path, most=20))) == 20
