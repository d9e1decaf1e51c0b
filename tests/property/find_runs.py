"""Find, by chance, a run of the ledger's machine that notices each mutant that has none yet, and write it down.

``python -m tests.property.find_runs [--again] [NAME...]``: of all mutants or those named; ``--again`` forgets what is
known. Takes seconds for most, minutes for the rarest.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.property.ledger_mutants import MUTANTS, Mutant
from tests.property.ledger_parts import simulated_clock
from tests.property.ledger_runs import Run, notices, read_runs, smaller, step_of, write_runs
from tests.property.test_ledger_machine import NAMES, connection, run_machine
from tests.support.server import RedisServer

TRIES = 20


def found(mutant: Mutant) -> Run | None:
    """A run that fails with the mutant and passes without it; ``None`` if chance has shown none."""
    for _ in range(TRIES):
        run = _failing(mutant)
        if run is not None and not _fails_alone(run):
            return run
    return None


def _failing(mutant: Mutant) -> Run | None:
    with simulated_clock(NAMES, mutant):
        try:
            run_machine(2400, 60, seeded=False, shrink=False)
        except AssertionError as error:
            lines = [line for note in error.__notes__ for line in note.splitlines()]
            steps = [line.strip() for line in lines if line.startswith("state.") and line.endswith(")")]
            run = [
                step_of(line) for line in steps if not line.startswith(("state.begin(", "state.teardown("))
            ]
            return smaller(run) if notices(run) else None
    return None


def _fails_alone(run: Run) -> bool:
    with simulated_clock(NAMES):
        return notices(run)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    runs = {} if asked.again and not asked.names else read_runs()
    mutants = {one.name: one for one in MUTANTS}
    runs = {name: run for name, run in runs.items() if name in mutants}
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as server, connection(server.url):
        for name, mutant in mutants.items():
            if (name not in runs or asked.again) and (not asked.names or name in asked.names):
                run = found(mutant)
                print(name, "not noticed" if run is None else f"{len(run)} steps", flush=True)
                if run is not None:
                    write_runs(runs := {**runs, name: run})


if __name__ == "__main__":
    main()
