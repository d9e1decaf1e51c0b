"""The time for which processes run and are not registered: they start, or hang."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from dynamo_tasks.serve.processes.process import ManagedProcess

__all__ = ["Hang", "Starts"]

_LOST_S = 60.0
"""Seconds after which a process that was registered, and is not any more, is taken for frozen."""
_LONGEST_LOOK_S = 2.0
"""Most seconds that one look counts: while Redis or this ``serve`` was away, nobody could register."""


@dataclass(frozen=True)
class Hang:
    """A process that hangs.

    Attributes:
        process: Which one.
        served: Whether this run of it was registered before; else it hangs in its start.
        reason: What is wrong with it.
    """

    process: ManagedProcess
    served: bool
    reason: str


@dataclass
class _Silence:
    """One run of a process, and how long it has been silent."""

    pid: int
    seconds: float = 0.0
    served: bool = False


class Starts:
    """Watches how long the processes of one component take until they are registered.

    Args:
        limit: Seconds that a start may take; 0 = as long as it will.
        clock: Seconds that only grow.
    """

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic):
        self._limit = limit
        self._clock = clock
        self._looked_at = clock()
        self._silences: dict[ManagedProcess, _Silence] = {}

    def look(self, processes: Sequence[ManagedProcess], heard: Collection[ManagedProcess]) -> list[Hang]:
        """Return those that hang; each is told once.

        Args:
            processes: All that should be registered, or become so.
            heard: Those of which nothing is expected now: they are registered, sleep, or are about to.
        """
        now = self._clock()
        passed, self._looked_at = min(now - self._looked_at, _LONGEST_LOOK_S), now
        self._silences = {one: known for one, known in self._silences.items() if one in processes}
        hangs = [self._hang(one, one in heard, passed) for one in processes]
        return [one for one in hangs if one is not None]

    def _hang(self, process: ManagedProcess, heard: bool, passed: float) -> Hang | None:
        if process.pid is None:
            self._silences.pop(process, None)
            return None
        known = self._silences.get(process)
        if known is None or known.pid != process.pid:
            known, passed = _Silence(process.pid), 0.0
            self._silences[process] = known
        known.served = known.served or heard
        known.seconds = 0.0 if heard else known.seconds + passed
        limit = min(self._limit, _LOST_S) if known.served else self._limit
        if not limit or known.seconds < limit:
            return None
        known.seconds = 0.0
        lost, slow = f"was not heard of for {limit:g} s", f"did not serve within {limit:g} s of its start"
        return Hang(process, known.served, lost if known.served else slow)
