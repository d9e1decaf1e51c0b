"""Interactive requests on workers that are full of batch work: do they notice, and what is left for the batch?

::

    python -m benchmarks.preemption                         # eleven minutes
    python -m benchmarks.preemption --rounds 1 --seconds 10 --kill-every 5

A real stack (``dynamo-tasks serve`` with the mocker, which is paced like an engine). In each round, one after the
other and in an order that changes from round to round: interactive requests alone; ``service_tier: flex`` alone,
twice as much as there are slots; both together. Interactive requests come at random (Poisson), at the same moments in
both windows of a round. So a machine that is busy for a while spoils a round, and not the figure: that is the median
over the rounds in which a quarter of the cores had nothing to do, of all if there are none. Every text is compared
with that of an engine that nobody disturbs. What is left for flex is its rate alone, less what the
interactive requests take: their tokens, and the time in which an engine computes their prompts and nobody's tokens.
The share without that time, by tokens alone, is printed too.

The exit status is 1 if a request was refused or failed, a token was lost or repeated, or the bar is not met: p99 of the
time to the first token at most 115 % of that of an idle fleet, and at least 90 % of what is left for flex.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.load import percentile
from benchmarks.own import DynamoTasks
from benchmarks.preemption_client import Answer, Client, poisson, saturate
from benchmarks.procstat import idle_seconds
from benchmarks.undisturbed import undisturbed

__all__ = ["main"]

_WINDOWS = [("idle", True, False), ("alone", False, True), ("both", True, True)]
"""Of a round: what comes in each."""
_LEAST_IDLE = 0.25
"""Share of the cores that must have had nothing to do in each window of a round that counts."""
_MOST_SLOWER, _LEAST_SHARE = 115.0, 90.0
_SETTLE = 2.0
"""Seconds in which flex fills the slots."""


@dataclass
class Phase:
    """What came of one phase.

    Attributes:
        interactive: Answers of the interactive requests.
        flex: Answers of flex, those that began before the phase as well.
        rates: Tokens per second within the phase, of either.
        killed: Workers that were killed.
        idle: Share of the cores that had nothing to do.
        prompts: Share of the engines' time that the prompts of interactive requests took.
    """

    interactive: list[Answer] = field(default_factory=list)
    flex: list[Answer] = field(default_factory=list)
    rates: tuple[float, float] = (0.0, 0.0)
    killed: int = 0
    idle: float = 0.0
    prompts: float = 0.0

    def first(self, q: float) -> float:
        """A percentile of the time to the first token of interactive requests, ms."""
        return 1000 * percentile(sorted(a.first for a in self.interactive if a.times), q)


async def _phase(
    options: argparse.Namespace, target: DynamoTasks, name: str, *, interactive: bool, flex: bool, kill: bool = False
) -> Phase:  # fmt: skip
    asking = Client(target.url, target.model, tokens=options.tokens, chars=options.chars)
    filling = Client(
        target.url, target.model, tokens=options.flex_tokens, chars=options.chars, service_tier="flex"
    )
    over, phase = asyncio.Event(), Phase(asking.answers, filling.answers)
    slots = options.workers * options.slots
    full = asyncio.create_task(saturate(filling, f"{name} flex", 2 * slots if flex else 0, over))
    killing = asyncio.create_task(_kill(options, target, phase)) if kill else None
    if flex:
        await asyncio.sleep(_SETTLE)
    began, rested = time.monotonic(), idle_seconds()
    if interactive:
        await poisson(asking, f"{name} interactive", options.rate, options.seconds, options.seed)
    else:
        await asyncio.sleep(options.seconds)
    ended = time.monotonic()
    phase.idle = (idle_seconds() - rested) / (ended - began) / (os.cpu_count() or 1)
    over.set()
    if killing is not None:
        killing.cancel()
    await full
    phase.prompts = (
        len(asking.answers) * options.chars * options.prefill / 1e6 / (ended - began) / options.workers
    )
    phase.rates = (_rate(asking.answers, began, ended), _rate(filling.answers, began, ended))
    return phase


def _rate(answers: Sequence[Answer], began: float, ended: float) -> float:
    return sum(began <= at < ended for answer in answers for at in answer.times) / (ended - began)


async def _kill(options: argparse.Namespace, target: DynamoTasks, phase: Phase) -> None:
    while True:
        await asyncio.sleep(options.kill_every)
        groups = await asyncio.to_thread(target.groups)
        os.kill(random.choice(sorted(groups["worker"])), signal.SIGKILL)
        phase.killed += 1


def _faults(answers: Sequence[Answer], tokens: int) -> dict[str, int]:
    """Requests without an answer, and answers that are not what they would be undisturbed."""
    texts = undisturbed([answer.prompt for answer in answers], tokens)
    good = [(a, text) for a, text in zip(answers, texts, strict=True) if not a.error]
    return {
        "refused or failed": sum(bool(answer.error) for answer in answers),
        "wrong": sum(answer.text != text for answer, text in good),
        "out of order": sum(answer.ids != sorted(set(answer.ids)) for answer, _ in good),
    }


@dataclass
class Round:
    """The phases of one round."""

    idle: Phase
    alone: Phase
    both: Phase

    @property
    def quiet(self) -> bool:
        """``True`` if no window lacked cores: else the times are those of the machine."""
        return min(self.idle.idle, self.alone.idle, self.both.idle) >= _LEAST_IDLE

    @property
    def slower(self) -> float:
        """p99 of the time to the first token on a full fleet, % of that on an idle one."""
        return 100 * self.both.first(99) / self.idle.first(99)

    @property
    def share(self) -> float:
        """Of what is left, %."""
        return 100 * self.both.rates[1] / self.left

    @property
    def share_by_tokens(self) -> float:
        """Of what is left if prompts cost nothing, %."""
        return 100 * self.both.rates[1] / (self.alone.rates[1] - self.both.rates[0])

    @property
    def left(self) -> float:
        """Tokens per second that interactive requests leave."""
        return self.alone.rates[1] * (1 - self.both.prompts) - self.both.rates[0]


def _of(rounds: Sequence[Round], figure: Callable[[Round], float]) -> str:
    values = [figure(one) for one in rounds]
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def _table(rounds: Sequence[Round]) -> str:
    rows = [
        ("interactive requests per round", lambda r: len(r.both.interactive)),
        ("TTFT p50, idle fleet, ms", lambda r: r.idle.first(50)),
        ("TTFT p50, full of flex, ms", lambda r: r.both.first(50)),
        ("TTFT p90, idle fleet, ms", lambda r: r.idle.first(90)),
        ("TTFT p90, full of flex, ms", lambda r: r.both.first(90)),
        ("TTFT p99, idle fleet, ms", lambda r: r.idle.first(99)),
        ("TTFT p99, full of flex, ms", lambda r: r.both.first(99)),
        ("TTFT p99, full of idle, %", lambda r: r.slower),
        ("flex alone, tokens/s", lambda r: r.alone.rates[1]),
        ("interactive, tokens/s", lambda r: r.both.rates[0]),
        ("flex beside it, tokens/s", lambda r: r.both.rates[1]),
        ("interactive prompts, % of the engines' time", lambda r: 100 * r.both.prompts),
        ("flex, of what is left, %", lambda r: r.share),
        ("the same by tokens alone, %", lambda r: r.share_by_tokens),
        ("preemptions per interactive request", lambda r: _attempts(r.both) / len(r.both.interactive)),
    ]  # fmt: skip
    lines = ["| | median (least–most) |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {_of(rounds, figure)} |" for name, figure in rows)])


def _pooled(rounds: Sequence[Round]) -> dict[float, tuple[float, float]]:
    """Percentiles of the times to the first token of all rounds together, ms: idle and full."""
    idle = Phase([answer for one in rounds for answer in one.idle.interactive])
    both = Phase([answer for one in rounds for answer in one.both.interactive])
    return {q: (idle.first(q), both.first(q)) for q in (50, 90, 99)}


def _meets(rounds: Sequence[Round]) -> bool:
    """Tell whether the bar is met, by the median of the rounds that were quiet."""
    quiet = [one for one in rounds if one.quiet]
    print(f"{len(quiet)} of {len(rounds)} rounds were quiet: {_LEAST_IDLE:.0%} of the cores idle, at least")
    rounds = quiet or rounds
    for q, (idle, both) in _pooled(rounds).items():
        print(f"TTFT p{q} of all rounds: {idle:.1f} idle, {both:.1f} full of flex: {100 * both / idle:.1f} %")
    slower = statistics.median(one.slower for one in rounds)
    share = statistics.median(one.share for one in rounds)
    met = slower <= _MOST_SLOWER and share >= _LEAST_SHARE
    print(
        f"bar {'met' if met else 'NOT MET'}: p99 {slower:.1f} % of idle, flex {share:.1f} % of what is left"
    )
    return met


def _attempts(phase: Phase) -> int:
    return sum(answer.attempts for answer in phase.flex)


async def _run(options: argparse.Namespace, target: DynamoTasks) -> tuple[list[Round], Phase | None]:
    rounds = []
    for number in range(options.rounds):
        options.seed += 1
        found: dict[str, Phase] = {}
        turn = number % len(_WINDOWS)
        for name, interactive, flex in _WINDOWS[turn:] + _WINDOWS[:turn]:
            found[name] = await _phase(
                options, target, f"{number} {name}", interactive=interactive, flex=flex
            )
        rounds.append(Round(**found))
    if not options.kill_every:
        return rounds, None
    return rounds, await _phase(options, target, "killed", interactive=True, flex=True, kill=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.preemption", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each phase")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--slots", type=int, default=8, help="of each worker")
    parser.add_argument("--delay", type=float, default=50.0, help="ms per token")
    parser.add_argument("--prefill", type=float, default=20.0, help="ms per 1,000 tokens of prompt")
    parser.add_argument("--chars", type=int, default=400, help="tokens of each prompt")
    parser.add_argument("--rate", type=float, default=7.0, help="interactive requests per second")
    parser.add_argument("--tokens", type=int, default=20, help="of an interactive answer")
    parser.add_argument("--flex-tokens", type=int, default=100, help="of a flex answer")
    parser.add_argument(
        "--kill-every", type=float, default=0.0, help="seconds; one more phase, with workers killed"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals")
    return parser.parse_args()


def main() -> int:
    """Run it; the exit status."""
    options = _options()
    flags = (
        f"--Worker.engine_args.max_num_seqs={options.slots}",
        f"--Worker.engine_args.prefill_ms_per_1k_tokens={options.prefill}",
    )
    with DynamoTasks(delay_ms=options.delay, workers=options.workers, flags=flags) as target:
        rounds, killed = asyncio.run(_run(options, target))
    print(_table(rounds))
    print()
    met = _meets(rounds)
    phases = [phase for one in rounds for phase in (one.idle, one.alone, one.both)]
    if killed is not None:
        phases.append(killed)
        print(
            f"\nwith {killed.killed} workers killed: {len(killed.interactive)} interactive, {len(killed.flex)} flex"
        )
    print()
    faults: dict[str, int] = {}
    for kind, tokens in (("interactive", options.tokens), ("flex", options.flex_tokens)):
        answers = [answer for phase in phases for answer in getattr(phase, kind)]
        found = _faults(answers, tokens)
        print(f"{kind}: {len(answers)} requests, {sum(len(a.times) for a in answers)} tokens, {found}")
        faults |= {f"{kind} {name}": count for name, count in found.items()}
    return int(any(faults.values()) or not met)


if __name__ == "__main__":
    raise SystemExit(main())
