"""The processes that this ``serve`` has for one component: started, drained, replaced, as many as its share is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.instances import Load
from dynamo_tasks.protocol.scale import Fleet
from dynamo_tasks.serve.planning.gpus import GpuPins
from dynamo_tasks.serve.processes.process import ManagedProcess
from dynamo_tasks.serve.processes.spec import Deployment, ProcessSpec
from dynamo_tasks.serve.processes.supervisor import Supervisor

__all__ = ["ManagedFleet"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 300.0
"""Seconds until a component whose processes do not start is tried again; doubled each time."""
_NO_DEVICE_S = 2.0
"""Seconds until a device is looked for again."""


class ManagedFleet:
    """The processes of one component.

    Args:
        deployment: The component.
        supervisor: Runs them.
        gpus: Their devices.
        complete: Adds to a spec what only this run knows.
        grace: Seconds that a process of this kind has to end what it runs.

    Attributes:
        share: As many as it is to have.
    """

    def __init__(
        self,
        deployment: Deployment,
        supervisor: Supervisor,
        gpus: GpuPins,
        complete: Callable[[ProcessSpec], ProcessSpec],
        grace: Callable[[ProcessSpec], float],
    ):
        self.deployment = deployment
        self.share = deployment.workers
        self._supervisor = supervisor
        self._gpus = gpus
        self._complete = complete
        self._grace = grace
        self._begun: dict[ManagedProcess, float] = {}
        self._draining: dict[ManagedProcess, asyncio.Task[None]] = {}
        self._registered: set[ManagedProcess] = set()
        self._failures = 0
        self._failure = ""
        self._lack = ""
        self._again_at = 0.0
        self._startup = 0.0

    @property
    def processes(self) -> list[ManagedProcess]:
        """Those that are to stay, or to be replaced."""
        mine = [one for one in self._supervisor.processes if one.spec.service == self.deployment.service]
        return [one for one in mine if one not in self._draining]

    def follow(self, share: int, loads: Mapping[int, Load]) -> None:
        """Start what is missing, and drain what is too much: the least loaded first.

        Args:
            share: As many as it is to have.
            loads: Of its processes that are registered, by their process ids.
        """
        self.share = share
        self._look(loads)
        self._discard_failed()
        here = self.processes
        if len(here) > share:
            for process in sorted(here, key=lambda one: self._weight(one, loads))[: len(here) - share]:
                self._draining[process] = asyncio.create_task(self._drain(process))
        elif len(here) < share and time.monotonic() >= self._again_at:
            self._start(share - len(here))
        if len(here) >= share and time.monotonic() >= self._again_at:
            self._lack = ""
        if not share:
            self._failure, self._failures, self._again_at = "", 0, 0.0

    def report(self, now: float) -> Fleet:
        """Tell what it has; ``now`` by Redis's clock."""
        here = [one for one in self.processes if one.failure is None]
        lost = [f"{one.spec.name} {one.failure}" for one in self.processes if one.failure is not None]
        running = len([one for one in here if one in self._registered])
        return Fleet(
            running=running, starting=len(here) - running, draining=len(self._draining), share=self.share,
            # Once in a while it has room again, as far as it knows: else nobody would look for a device any more.
            most=len(here) if self._lack and time.monotonic() < self._again_at else None,
            note=self._failure or self._lack or "; ".join(lost), failed=bool(self._failure),
            startup=round(self._startup, 3), at=now,
        )  # fmt: skip

    async def close(self) -> None:
        """Leave what drains to the supervisor's end."""
        tasks = [*self._draining.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _look(self, loads: Mapping[int, Load]) -> None:
        """See which processes are registered, and since when."""
        now = time.monotonic()
        for process in self.processes:
            begun = self._begun.setdefault(process, now)
            if process.pid not in loads:
                self._registered.discard(process)
            elif process not in self._registered:
                self._registered.add(process)
                if not process.proven or process.restarts == 0:
                    self._startup = now - begun
                process.proven = True
                self._failures, self._failure, self._again_at = 0, "", 0.0

    def _discard_failed(self) -> None:
        """Forget processes that were given up; try anew after a pause."""
        for process in self.processes:
            if process.failure is None or not process.spec.elastic:
                continue
            pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**self._failures)
            self._failures += 1
            self._failure = f"{process.spec.name} {process.failure}"
            self._again_at = time.monotonic() + pause
            self._draining[process] = asyncio.create_task(self._drain(process))

    def _weight(self, process: ManagedProcess, loads: Mapping[int, Load]) -> tuple[bool, int, float]:
        """Order of draining: what has not begun to serve, then what runs least, then the youngest."""
        load = loads.get(process.pid or 0)
        return load is not None, load.in_flight if load else 0, -self._begun.get(process, 0.0)

    async def _drain(self, process: ManagedProcess) -> None:
        await self._supervisor.remove(process, self._grace(process.spec))
        self._gpus.release_one(process.spec.name)
        self._registered.discard(process)
        self._begun.pop(process, None)
        del self._draining[process]

    def _start(self, number: int) -> None:
        taken = {one.spec.name for one in self._supervisor.processes}
        self._lack = ""
        index = 0
        while number:
            spec = self.deployment.spec(index)
            index += 1
            if spec.name in taken:
                continue
            try:
                self._gpus.claim([spec])
            except ConfigError as error:
                self._lack = f"waits for a free device: {error.message}"
                self._again_at = time.monotonic() + _NO_DEVICE_S
                return
            process = self._supervisor.add(self._complete(spec))
            self._begun[process] = time.monotonic()
            number -= 1
