"""The ledger's machine notices what is taken out of a script: else it would show nothing.

Each mutant has a run of the machine that shows it (``ledger_runs.txt``), found once by chance.
"""

from __future__ import annotations

import pytest

from tests.property.ledger_mutants import MUTANTS, Mutant
from tests.property.ledger_parts import simulated_clock
from tests.property.ledger_runs import read_runs, replay
from tests.property.test_ledger_machine import NAMES, connected

__all__ = ["connected"]

pytestmark = pytest.mark.slow
RUNS = read_runs()


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("mutant", MUTANTS, ids=[one.name for one in MUTANTS])
def test_the_machine_notices(mutant: Mutant) -> None:
    assert mutant.name in RUNS, f"no run yet: python -m tests.property.find_runs {mutant.name}"
    with simulated_clock(NAMES):
        replay(RUNS[mutant.name])  # what it shows is the mutant, and nothing else
    with simulated_clock(NAMES, mutant), pytest.raises(AssertionError):
        replay(RUNS[mutant.name])


def test_each_run_belongs_to_a_mutant() -> None:
    assert set(RUNS) <= {one.name for one in MUTANTS}
