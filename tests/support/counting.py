"""Counts what requests cost: commands, scripts and bytes of Redis, Python calls of processes.

Each is ascribed to the request, on a machine as busy as it likes: what Redis does by the id that it is done for
(:mod:`tests.support.tapped`), what processes do by the task that does it. What is left of others' work, on connections
and loops that both share, is in some requests and not in others: of many, the least counts.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.support.processes import Process, until
from tests.support.tapped import Tap

__all__ = ["Costs", "Meter"]

Costs = dict[str, float]
"""What one request costs, by the name of what was counted."""
_LAST = ("finish", "detach")
"""Scripts that a chat asks for at its end, the worker and the frontend."""
_ACTORS = (
    "runtime/supervision/", "runtime/hosting/registration.py:", "services/http.py:KeyFollower", "Sweeper._run",
    "StreamReader._watch", "uvicorn/server.py:", "futures.py:_set_result_unless_cancelled", "futures.py:_chain_future",
)  # fmt: skip
"""What runs by itself, by the beginning of its stack: periodic actors, and the ends of sleeps."""


class Meter:
    """Costs of requests, one at a time.

    Args:
        tap: Between the processes and Redis.
        folder: Where the processes write their calls (``COUNTED_CALLS``).
        processes: By the name that their calls get.
    """

    def __init__(self, tap: Tap, folder: Path, processes: dict[str, Process]) -> None:
        self._tap = tap
        self._folder = folder
        self._processes = processes
        self._samples: list[tuple[str, Counter[tuple[str, str, str]]]] = []

    def measure(self, request: Callable[[], object], times: int) -> Costs:
        """The cost of a request, of all that were measured so far.

        Args:
            request: Makes one, and reads it to its end.
            times: How often it is made now.
        """
        before = self._calls()
        for _ in range(times):
            known = len(self._tap.requests)
            request()
            request_id = self._ended(known)
            after = self._calls()
            self._samples.append((request_id, after - before))
            before = after
        self._tap.catch_up()
        return self._least()

    def _ended(self, known: int) -> str:
        """The id of the request that has come since, once its last script was answered."""

        def ended() -> bool:
            new = self._tap.requests[known:]
            return bool(new) and all(self._tap.traffic(new[0]).scripts[name] for name in _LAST)

        until(ended, 60, lambda: f"the request ends: {self._tap.requests[known:]}")
        return self._tap.requests[known]

    def _least(self) -> Costs:
        # On a busy machine tokens and end may share a write: such requests cost less, and are no measure where
        # there are others.
        known = [(self._tap.traffic(one), calls) for one, calls in self._samples]
        most = max(traffic.transactions for traffic, _ in known)
        samples = [one for one in known if one[0].transactions == most or most > 2]
        found = [traffic for traffic, _ in samples]
        costs: Costs = {
            "redis scripts": min(sum(one.scripts.values()) for one in found),
            "redis commands": min(one.commands for one in found),
            "redis bytes in": min(one.bytes_in for one in found),
            "redis bytes out": min(one.bytes_out for one in found),
        }
        for part in {part for _, calls in samples for part in calls}:
            process, _, layer = part
            least = min(calls[part] for _, calls in samples)
            for name in (f"{process} calls", f"{process} {layer}"):
                costs[name] = costs.get(name, 0) + least
        return costs

    def _calls(self) -> Counter[tuple[str, str, str]]:
        """Calls so far by process, beginning of the stack and layer."""
        found: Counter[tuple[str, str, str]] = Counter()
        for name, process in self._processes.items():
            for (root, layer), calls in self._written(process):
                if root and not any(actor in root for actor in _ACTORS):
                    found[name, root, layer] += calls
        return found

    def _written(self, process: Process) -> list[tuple[tuple[str, str], int]]:
        target = self._folder / str(process.pid)
        target.unlink(missing_ok=True)
        os.kill(process.pid, signal.SIGRTMIN)
        until(target.exists, 60, "it writes its counts")
        return msgspec.json.decode(target.read_bytes(), type=list[tuple[tuple[str, str], int]])
