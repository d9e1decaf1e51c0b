"""Replays a trace of requests over a fleet in virtual time, under several policies.

::

    python -m benchmarks.replay conversation_trace.jsonl.gz --workers 8 --blocks 16384 --speedup 1,4

A run of 12,000 requests takes half a minute. The scheduler is the mocker's; a step lasts as long as in NVIDIA
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

from benchmarks.replay_policies import POLICIES
from benchmarks.traces import read_trace
from benchmarks.virtual_fleet import Fleet, FleetArgs, Outcome

__all__ = ["main", "replay", "summary"]

_COLUMNS = ("ttft_mean_ms", "ttft_p50_ms", "ttft_p99_ms", "longest_wait_s", "reuse", "seconds")


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
        "longest_wait_s": max(one.sent - one.request.at for one in outcome.arrivals),
        "reuse": sum(one.cached for one in outcome.arrivals) / tokens,
        "seconds": outcome.seconds,
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [f"| policy | speed-up | {' | '.join(_COLUMNS)} |", "|---" * (2 + len(_COLUMNS)) + "|"]
    for row in rows:
        figures = " | ".join(f"{row[name]:.3g}" if row[name] < 1 else f"{row[name]:.0f}" for name in _COLUMNS)
        lines.append(f"| {row['policy']} | {row['speedup']:g} | {figures} |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.replay", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("trace", type=Path, help="a .jsonl or .jsonl.gz file in Mooncake's format")
    parser.add_argument("--workers", type=int, default=8, help="instances (8)")
    parser.add_argument("--blocks", type=int, default=16384, help="KV blocks of each (16384)")
    parser.add_argument("--block-size", type=int, default=64, help="tokens per block (64)")
    parser.add_argument("--speedup", default="1", help="one or several factors, e.g. 1,4")
    parser.add_argument("--policy", action="append", choices=POLICIES, help="one or several; all by default")
    parser.add_argument("--requests", type=int, help="only the first so many")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; returns the exit status."""
    given = _parser().parse_args(argv)
    args = FleetArgs(workers=given.workers, blocks=given.blocks, block_size=given.block_size)
    rows: list[dict[str, Any]] = []
    for speedup in map(float, given.speedup.split(",")):
        for policy in given.policy or POLICIES:
            began = time.monotonic()
            outcome = replay(given.trace, policy, args, speedup, given.requests)
            rows.append({"policy": policy, "speedup": speedup, **summary(outcome)})
            print(f"{policy} at {speedup:g}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(_table(rows))
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
