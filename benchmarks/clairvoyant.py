"""What a planner could save at best: one that knows for each minute what every size of the fleet would keep.

::

    python -m benchmarks.clairvoyant conversation_trace.jsonl.gz --hours 1 --sizes 2-8 --ttft 2,0.5 --kept 0.85

The trace is replayed over a fixed fleet of each size. Then each minute gets the size that it deserves at one price of a
worker for all minutes: no other choice keeps as much for less. Workers come and go at once and cost nothing before, and
no minute inherits what waits from another size. So it is no planner that could be had: others can be held against it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.planner_replay import Scenario, Targets, planned, settings_of
from benchmarks.replay_policies import CHANGING
from benchmarks.traces import day, read_trace
from benchmarks.virtual_fleet import FleetArgs

__all__ = ["Choice", "choices", "least_hours", "main"]

_MINUTE = 60.0
_BLOCKS, _BLOCK_SIZE = 2048, 512
"""Of a worker: those of :mod:`benchmarks.replay`."""


class Choice(NamedTuple):
    """A size of the fleet for each minute.

    Attributes:
        kept: Share of the requests that keep the targets.
        hours: Worker-hours.
    """

    kept: float
    hours: float


def choices(kept: Mapping[int, Counter[int]], arrived: Counter[int]) -> list[Choice]:
    """Return the best choices, the cheapest first: at each price of a worker one.

    Args:
        kept: Size → minute → requests of that minute which keep the targets.
        arrived: Minute → its requests.
    """
    total, found = sum(arrived.values()), set()
    # More workers are only worth a price below what they keep more than fewer; between these prices nothing changes.
    gains = {
        (of[minute] - less[minute]) / (size - smaller)
        for size, of in kept.items() for smaller, less in kept.items() if smaller < size for minute in arrived
    }  # fmt: skip
    for price in sorted({0.0, *(gain for gain in gains if gain > 0)}):
        sizes = {
            minute: min(kept, key=lambda size: (price * size - kept[size][minute], size))
            for minute in arrived
        }
        share = sum(kept[size][minute] for minute, size in sizes.items()) / total
        found.add(Choice(share, sum(sizes.values()) * _MINUTE / 3600))
    return sorted(found, key=lambda one: one.hours)


def least_hours(found: Sequence[Choice], kept: float) -> float:
    """Return the worker-hours below which no choice keeps a share; those of the last one, where none keeps as much.

    Args:
        found: The best choices. What lies between two of them costs at least what the line between them says.
        kept: The share.
    """
    for less, more in itertools.pairwise(found):
        if less.kept <= kept <= more.kept:
            part = (kept - less.kept) / (more.kept - less.kept)
            return less.hours + part * (more.hours - less.hours)
    return found[0].hours if kept < found[0].kept else found[-1].hours


def _replays(
    given: argparse.Namespace, targets: Sequence[Targets]
) -> tuple[Counter[int], dict[Targets, dict[int, Counter[int]]]]:
    """Replay over each size."""
    requests = [*day([*read_trace(given.trace, given.speedup, None)], given.hours, given.swing)]
    args = FleetArgs(workers=4, blocks=_BLOCKS, block_size=_BLOCK_SIZE)
    scenario = Scenario(requests, args, CHANGING["cheapest"])
    kept: dict[Targets, dict[int, Counter[int]]] = {one: {} for one in targets}
    first, _, last = given.sizes.partition("-")
    for size in range(int(first), int(last or first) + 1):
        arrivals = planned(scenario, settings_of(f"fixed:{size}", scenario)).arrivals
        for one in targets:
            kept[one][size] = Counter(int(it.request.at // _MINUTE) for it in arrivals if one.met(it))
        print(f"{size} workers replayed", file=sys.stderr)
    return Counter(int(one.at // _MINUTE) for one in requests), kept


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.clairvoyant", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("trace", type=Path, help="a .jsonl or .jsonl.gz file in Mooncake's format")
    parser.add_argument("--speedup", type=float, default=1.0, help="requests come so many times faster (1)")
    parser.add_argument(
        "--hours", type=float, default=1.0, help="re-time the trace to one day, of so many hours (1)"
    )
    parser.add_argument("--swing", type=float, default=5.0, help="rate at noon over the rate at night (5)")
    parser.add_argument("--sizes", default="2-8", help="fewest and most workers (2-8)")
    parser.add_argument(
        "--ttft", default="0.5", help="one or several targets of the time to the first token, s (0.5)"
    )
    parser.add_argument(
        "--kept", default="", help="one or several shares that shall keep the targets, e.g. 0.85"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print what each size keeps and costs, and what that takes at least; returns the exit status."""
    given = _parser().parse_args(argv)
    targets = [Targets(ttft=float(one)) for one in given.ttft.split(",")]
    arrived, kept = _replays(given, targets)
    for one in targets:
        print(f"TTFT {one.ttft:g} s\n| fleet | kept | worker-hours | clairvoyant |\n|---|---|---|---|")
        found = choices(kept[one], arrived)
        for size, of in kept[one].items():
            share, hours = sum(of.values()) / sum(arrived.values()), size * len(arrived) * _MINUTE / 3600
            print(f"| fixed:{size} | {share:.1%} | {hours:.2f} | {least_hours(found, share):.2f} |")
        for share in map(float, filter(None, given.kept.split(","))):
            print(f"| any | {share:.1%} | | {least_hours(found, share):.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
