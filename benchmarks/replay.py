"""Replays a trace of requests over a fleet in virtual time, under several policies.

::

    python -m benchmarks.replay conversation_trace.jsonl.gz --workers 8 --blocks 16384 --speedup 1,4
    python -m benchmarks.replay conversation_trace.jsonl.gz --planner load,dynamo-load,fixed:8 --hours 2

The latter lets a planner decide how many workers there are. A run of 12,000 requests takes half a
minute. The scheduler is the mocker's; a step lasts as long as in NVIDIA
Dynamo's mocker, so that its simulator can be put beside this one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.planner_replay import Scenario, Targets, comparison
from benchmarks.replay_policies import CHANGING, POLICIES
from benchmarks.traces import day, read_trace
from benchmarks.virtual_fleet import Fleet, FleetArgs, Outcome

__all__ = ["main", "replay", "summary"]

_COLUMNS = ("ttft_mean_ms", "ttft_p50_ms", "ttft_p99_ms", "ttft_max_s", "longest_wait_s", "reuse", "seconds")
_PLANNED = (
    "attained", "worker_hours", "mean_workers", "most", "actions", "flaps", "ttft_met", "itl_met", "ttft_p50_ms",
    "ttft_p99_ms",
)  # fmt: skip
_TOKENS = 1 << 20
"""Tokens that the KV cache of a worker holds."""


def replay(
    trace: Path, policy: str, args: FleetArgs, speedup: float = 1.0, most: int | None = None
) -> Outcome:
    """Replay a trace under one policy.

    Args:
        trace: See :mod:`benchmarks.traces`.
        policy: One of :data:`~benchmarks.replay_policies.POLICIES`.
        args: The fleet.
        speedup: Requests come so many times faster.
        most: Only the first so many requests.
    """
    fleet = Fleet(args)
    return fleet.run(read_trace(trace, speedup, most), POLICIES[policy](fleet))


def summary(outcome: Outcome) -> dict[str, float]:
    """The figures of a run: times to the first token in ms, and the share of prompt tokens that caches had."""
    waits = sorted(1000 * (one.first - one.request.at) for one in outcome.arrivals)
    tokens = sum(one.request.prompt for one in outcome.arrivals)
    return {
        "ttft_mean_ms": statistics.fmean(waits),
        "ttft_p50_ms": waits[len(waits) // 2],
        "ttft_p99_ms": waits[int(len(waits) * 0.99)],
        "ttft_max_s": waits[-1] / 1000,
        "longest_wait_s": max(one.sent - one.request.at for one in outcome.arrivals),
        "reuse": sum(one.cached for one in outcome.arrivals) / tokens,
        "seconds": outcome.seconds,
    }


def _table(rows: Sequence[dict[str, Any]], columns: tuple[str, Sequence[str]]) -> str:
    first, names = columns
    lines = [f"| {first} | speed-up | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    for row in rows:
        figures = " | ".join(f"{row[name]:.3g}" if row[name] < 10 else f"{row[name]:.0f}" for name in names)
        lines.append(f"| {row[first]} | {row['speedup']:g} | {figures} |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.replay", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("trace", type=Path, help="a .jsonl or .jsonl.gz file in Mooncake's format")
    parser.add_argument("--workers", type=int, help="instances (8; with planners 4 at the begin)")
    parser.add_argument("--blocks", type=int, help="KV blocks of each (1,048,576 tokens)")
    parser.add_argument("--block-size", type=int, help="tokens per block (64; with planners 512)")
    parser.add_argument("--speedup", default="1", help="one or several factors, e.g. 1,4")
    parser.add_argument("--policy", action="append", choices=POLICIES, help="one or several; all by default")
    parser.add_argument("--requests", type=int, help="only the first so many")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    plan = parser.add_argument_group("planners")
    plan.add_argument(
        "--routing", default="cheapest", choices=CHANGING, help="who gets which request (cheapest)"
    )
    plan.add_argument(
        "--planner", help="one or several, with settings: load,dynamo-load,fixed:8,load:cool_down=30"
    )
    plan.add_argument(
        "--ttft", type=float, default=0.5, help="target of the time to the first token, s (0.5)"
    )
    plan.add_argument("--itl", type=float, default=0.05, help="target of the time between tokens, s (0.05)")
    plan.add_argument("--max", type=int, default=16, help="most workers (16)")
    plan.add_argument(
        "--start-up", type=float, default=60.0, help="seconds that a worker takes to start (60)"
    )
    plan.add_argument("--hours", type=float, help="re-time the trace to one day, of so many hours")
    plan.add_argument("--swing", type=float, default=5.0, help="rate at noon over the rate at night (5)")
    return parser


def _plan(given: argparse.Namespace, args: FleetArgs) -> list[dict[str, Any]]:
    """Compare planners; who gets which request is decided alike for all of them."""
    rows: list[dict[str, Any]] = []
    for speedup in map(float, given.speedup.split(",")):
        requests = [*read_trace(given.trace, speedup, given.requests)]
        scenario = Scenario(
            [*day(requests, given.hours, given.swing)] if given.hours else requests,
            args, CHANGING[given.routing], Targets(given.ttft, given.itl), given.max, given.start_up,
        )  # fmt: skip
        for row in comparison(scenario, given.planner.split(",")):
            rows.append({"speedup": speedup, **row})
            told = f"{row['attained']:.1%} kept the targets, {row['worker_hours']:.2f} worker-hours"
            print(f"{row['planner']} at {speedup:g}: {told} ({row['took_s']:.0f} s)", file=sys.stderr)
    return rows


def _route(given: argparse.Namespace, args: FleetArgs) -> list[dict[str, Any]]:
    """Compare routing policies over a fleet of a fixed size."""
    rows: list[dict[str, Any]] = []
    for speedup in map(float, given.speedup.split(",")):
        for policy in given.policy or POLICIES:
            began = time.monotonic()
            outcome = replay(given.trace, policy, args, speedup, given.requests)
            rows.append({"policy": policy, "speedup": speedup, **summary(outcome)})
            print(f"{policy} at {speedup:g}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; returns the exit status."""
    given = _parser().parse_args(argv)
    size = given.block_size or (512 if given.planner else 64)
    args = FleetArgs(
        workers=given.workers or (4 if given.planner else 8), blocks=given.blocks or _TOKENS // size,
        block_size=size,
    )  # fmt: skip
    rows = _plan(given, args) if given.planner else _route(given, args)
    print(_table(rows, ("planner", _PLANNED) if given.planner else ("policy", _COLUMNS)))
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
