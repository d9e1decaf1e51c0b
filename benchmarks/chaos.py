"""A steady load under random faults: does every stream arrive whole, once, in order, and with an end?

::

    python -m benchmarks.chaos --minutes 10 --seed 1
    python -m benchmarks.chaos --minutes 10 --seed 1 --lanes 3

Each stream is compared with the text of an engine that nobody disturbs. The exit status is 1 if anything was lost,
repeated or left without an end.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.chaos_client import Outcome, Stream
from benchmarks.chaos_fleet import Fleet
from benchmarks.undisturbed import undisturbed

__all__ = ["main"]

_PROMPTS = 32
_PATIENCE = 90.0
_HELD_UP = 0.25
"""Seconds of silence that are not the pace of the engine."""


class Chaos:
    """One run.

    Args:
        options: Of the command line.
    """

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._rng = random.Random(options.seed)
        self._prompts = [f"chaos {options.seed} {i}" for i in range(_PROMPTS)]
        self._texts = undisturbed(self._prompts, options.tokens)
        self._over = threading.Event()
        self.outcomes: list[Outcome] = []

    def run(self, folder: Path) -> Fleet:
        """Load and faults until the time is over; then wait for what still runs."""
        options = self._options
        fleet = Fleet(
            folder,
            workers=options.workers,
            frontends=options.frontends,
            lanes=options.lanes,
            delay_ms=options.delay,
            rng=self._rng,
        )
        with fleet, ThreadPoolExecutor(options.streams) as pool:
            loads = [pool.submit(self._load, fleet, i) for i in range(options.streams)]
            deadline = time.monotonic() + 60 * options.minutes
            while (left := deadline - time.monotonic()) > 0:
                time.sleep(min(left, self._rng.uniform(0.5, 1.5) * options.every))
                fleet.harm()
            self._over.set()
            for load in loads:
                load.result()
        return fleet

    def _load(self, fleet: Fleet, i: int) -> None:
        """One closed loop of streams; each begins at a frontend of its own choice."""
        turn = i
        while not self._over.is_set():
            ports = [frontend.port for frontend in fleet.frontends]
            ports = ports[turn % len(ports) :] + ports[: turn % len(ports)]
            which = turn % _PROMPTS
            stream = Stream(lambda ports=ports: ports, self._prompts[which], self._options.tokens, _PATIENCE)  # type: ignore[misc]
            self.outcomes.append(stream.run(self._texts[which]))
            turn += self._options.streams + 1


def _table(chaos: Chaos, fleet: Fleet, options: argparse.Namespace) -> str:
    outcomes = chaos.outcomes
    gaps = sorted(outcome.gap for outcome in outcomes)
    faults = ", ".join(f"{name} {count}" for name, count in sorted(fleet.faults.items()))
    rows = {
        "minutes, seed": f"{options.minutes:g}, {options.seed}",
        "Redis servers": str(options.lanes),
        "faults": f"{fleet.faults.total()} ({faults})",
        "streams": f"{len(outcomes)} ({sum(bool(outcome.resumed) for outcome in outcomes)} resumed elsewhere)",
        "tokens": str(sum(outcome.tokens for outcome in outcomes)),
        "lost tokens": str(sum(outcome.lost for outcome in outcomes)),
        "repeated or wrong tokens": str(sum(outcome.repeated for outcome in outcomes)),
        "ended with an error": str(sum(bool(outcome.error) for outcome in outcomes)),
        "hung (no end)": str(sum(outcome.hung for outcome in outcomes)),
        "longest gap of a stream, s: p50 / p99 / max": (
            f"{statistics.median(gaps):.2f} / {gaps[int(0.99 * (len(gaps) - 1))]:.2f} / {gaps[-1]:.2f}"
        ),
    }
    table = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join([*table, "", *_kinds(outcomes, fleet)])


def _kinds(outcomes: Sequence[Outcome], fleet: Fleet) -> list[str]:
    """Per kind of fault, the longest gaps of the streams that it held up.

    Faults overlap: a gap counts for the one that it began with, whatever struck on its way.
    """
    gaps: dict[str, list[float]] = {kind: [] for kind in fleet.faults}
    for outcome in outcomes:
        struck = [(at, what) for at, what in fleet.log if at < outcome.gap_at + outcome.gap]
        if outcome.gap >= _HELD_UP and struck:
            inside = [what for at, what in struck if at > outcome.gap_at - _HELD_UP]
            what = inside[0] if inside else struck[-1][1]
            gaps[what.split()[0]].append(outcome.gap)
    rows = [
        "| fault that the gap began with | injected | streams | p50, s | p99, s | max, s |",
        "|---|---|---|---|---|---|",
    ]
    for kind, found in sorted(gaps.items()):
        found.sort()
        numbers = (statistics.median(found), found[int(0.99 * (len(found) - 1))], found[-1]) if found else ()
        shown = " | ".join(f"{number:.2f}" for number in numbers) or "- | - | -"
        rows.append(f"| {kind} | {fleet.faults[kind]} | {len(found)} | {shown} |")
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of faults; what runs then is waited for")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of faults and times")
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two faults, on average")
    parser.add_argument("--streams", type=int, default=16, help="at a time")
    parser.add_argument("--tokens", type=int, default=150, help="of each stream")
    parser.add_argument("--delay", type=float, default=22.0, help="ms per token")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--frontends", type=int, default=2)
    parser.add_argument("--lanes", type=int, default=1, help="Redis servers; a fault hits one of them")
    parser.add_argument("--keep", type=Path, help="folder for logs and data, in place of a temporary one")
    return parser.parse_args()


def main() -> int:
    """Run it; the exit status."""
    options = _options()
    chaos = Chaos(options)
    with tempfile.TemporaryDirectory(prefix="dynamo-tasks-chaos-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        fleet = chaos.run(folder)
    print(_table(chaos, fleet, options))
    for outcome in chaos.outcomes:
        if outcome.error or outcome.hung or outcome.lost or outcome.repeated:
            print(outcome)
    return int(any(one.error or one.hung or one.lost or one.repeated for one in chaos.outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
