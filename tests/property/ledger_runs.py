"""Runs of the ledger's machine that are written down: steps, one a line, as Hypothesis prints them.

``ledger_runs.txt`` has a run for each mutant, headed by its name. A run is found by chance once, made smaller and kept,
so that a mutant is noticed each time and at once. ``python -m tests.property.find_runs`` finds what is missing.
"""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path
from typing import Any

from tests.property.ledger_machine import LedgerMachine

__all__ = ["Run", "Step", "notices", "read_runs", "replay", "smaller", "write_runs"]

FILE = Path(__file__).with_name("ledger_runs.txt")

Step = tuple[str, dict[str, Any]]
Run = list[Step]


def step_of(line: str) -> Step:
    """``state.serve(n=1, own=False)`` or the same without ``state.``"""
    call = ast.parse(line.strip().removeprefix("state."), mode="eval").body
    assert isinstance(call, ast.Call), line
    assert isinstance(call.func, ast.Name), line
    return call.func.id, {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}


def line_of(step: Step) -> str:
    """The inverse of :func:`step_of`."""
    name, arguments = step
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def read_runs() -> dict[str, Run]:
    """The name of a mutant → its run."""
    runs: dict[str, Run] = {}
    name = ""
    for line in FILE.read_text().splitlines() if FILE.exists() else []:
        if line.startswith("  "):
            runs[name].append(step_of(line))
        else:
            name = line
            runs[name] = []
    return runs


def write_runs(runs: dict[str, Run]) -> None:
    """In the order of the names."""
    FILE.write_text(
        "".join(f"{name}\n" + "".join(f"  {line_of(step)}\n" for step in runs[name]) for name in sorted(runs))
    )


def replay(run: Run) -> None:
    """Take the steps, with all invariants after each, and let everything end.

    Raises:
        AssertionError: an invariant does not hold.
    """
    state = LedgerMachine()
    try:
        state.begin()
        for name, arguments in run:
            getattr(state, name)(**arguments)
            state.holds()
    finally:
        state.teardown()


def notices(run: Run) -> bool:
    """Whether the run shows what is wrong with the scripts as they are now."""
    with contextlib.suppress(AssertionError):
        replay(run)
        return False
    return True


def smaller(run: Run) -> Run:
    """What is left of a run without each stretch of steps that it does not need."""
    length = len(run) // 2
    while length:
        start = 0
        while start < len(run):
            less = run[:start] + run[start + length :]
            if notices(less):
                run = less
            else:
                start += length
        length //= 2
    return run
