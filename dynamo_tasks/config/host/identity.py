"""Identity of a process that outlives its number: pid and start time (a pid alone is used again)."""

from __future__ import annotations

import contextlib
import os
import signal as signals
import time
from pathlib import Path
from typing import Any, NamedTuple, Self

__all__ = ["ProcessId"]


class ProcessId(NamedTuple):
    """One process of this machine.

    Attributes:
        pid: Its number.
        started: Clock ticks between the machine's boot and its start (field 22 of ``/proc/<pid>/stat``).
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The identity behind a number; ``None`` when no such process runs (a zombie does not run)."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        # The second field is the name in parentheses, and may itself hold spaces and parentheses.
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @classmethod
    def current(cls) -> Self:
        """This process."""
        me = cls.of(os.getpid())
        if me is None:
            raise RuntimeError("/proc is not mounted")
        return me

    @classmethod
    def from_json(cls, value: Any) -> Self | None:
        """The opposite of ``list(process_id)``; ``None`` for anything else."""
        match value:
            case [int(pid), int(started)]:
                return cls(pid, started)
            case _:
                return None

    def alive(self) -> bool:
        """Return whether this very process still runs."""
        return ProcessId.of(self.pid) == self

    def signal(self, number: signals.Signals) -> None:
        """Send a signal; nothing happens when the process is gone."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait_gone(self, timeout: float) -> bool:
        """Wait until the process, a child or not, has ended.

        Args:
            timeout: Seconds.

        Returns:
            False if it still runs.
        """
        deadline = time.monotonic() + timeout
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True
