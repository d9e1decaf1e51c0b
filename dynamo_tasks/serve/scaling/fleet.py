"""The processes that this ``serve`` has for one component: started, drained, replaced, as many as its share is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.instances import Load
from dynamo_tasks.protocol.scale import Fleet
from dynamo_tasks.serve.planning.gpus import GpuPins
from dynamo_tasks.serve.processes.process import ManagedProcess
from dynamo_tasks.serve.processes.spec import Deployment, ProcessSpec
from dynamo_tasks.serve.processes.supervisor import Supervisor
from dynamo_tasks.serve.scaling.sleeping import Sleeping
from dynamo_tasks.serve.scaling.starts import Starts

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
        sleeping: Puts its processes to sleep where it shares a device by turns; else ``None``: they end.

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
        sleeping: Sleeping | None = None,
    ):
        self.deployment = deployment
        self.share = deployment.workers
        self._supervisor = supervisor
        self._gpus = gpus
        self._complete = complete
        self._grace = grace
        self._sleeping = sleeping
        self._begun: dict[ManagedProcess, float] = {}
        self._draining: dict[ManagedProcess, asyncio.Task[None]] = {}
        self._registered: set[ManagedProcess] = set()
        self._failures = 0
        self._failure = ""
        self._hung = False
        self._lack = ""
        self._again_at = 0.0
        self._startup = 0.0
        self._starts = Starts(deployment.bounds.start if deployment.bounds is not None else 0.0)

    @property
    def processes(self) -> list[ManagedProcess]:
        """Those that are to stay, or to be replaced."""
        mine = [one for one in self._supervisor.processes if one.spec.service == self.deployment.service]
        return [one for one in mine if one not in self._draining]

    @property
    def awake(self) -> list[ManagedProcess]:
        """Those that are to stay, and do not sleep."""
        return [one for one in self.processes if not self._sleeps(one)]

    @property
    def lacks(self) -> bool:
        """``True`` if it has to start or wake one now."""
        return len(self.awake) < self.share and time.monotonic() >= self._again_at

    def shrink(self, share: int, loads: Mapping[int, Load], leases: Mapping[int, int], *, off: bool) -> None:
        """Drain what is too much, the least loaded first, or put it to sleep.

        Args:
            share: As many as it is to have.
            loads: Of its processes that are registered, by their process ids.
            leases: Theirs.
            off: Whether it is turned off: then none sleeps either.
        """
        self.share = share
        self._look(loads)
        self._end_hung()
        self._discard_failed()
        self._discard_sleepers(all_of_them=off)
        awake = self.awake
        for process in sorted(awake, key=lambda one: self._weight(one, loads))[: max(0, len(awake) - share)]:
            self._rest(process, leases.get(process.pid or 0), off=off)
        if len(awake) >= share and time.monotonic() >= self._again_at:
            self._lack = ""
        if not share and (self._sleeping is None or off or time.monotonic() >= self._again_at):
            # One that waits for its next turn is not believed to start before it is time to try again.
            self._failure, self._hung, self._again_at = "", False, 0.0
            self._failures = 0 if self._sleeping is None or off else self._failures

    def grow(self, leases: Mapping[int, int]) -> None:
        """Start what is missing; those that sleep are woken first."""
        missing = self.share - len(self.awake)
        for process in [one for one in self.processes if self._sleeps(one)][: max(0, missing)]:
            self._wake(process, leases.get(process.pid or 0))
            missing -= 1
        if missing > 0:
            self._start(missing)

    def intent(self, now: float) -> Fleet:
        """Tell what it has once it has grown."""
        fleet = self.report(now)
        fleet.starting = max(fleet.starting, self.share - fleet.running)
        return fleet

    def _wake(self, process: ManagedProcess, lease: int | None) -> None:
        # One that lost its lease hears nothing: another one is started.
        if self._sleeping is None or lease is None:
            self._draining[process] = asyncio.create_task(self._drain(process))
            return
        self._sleeping.wake(process, lease)
        self._begun[process] = time.monotonic()
        self._registered.discard(process)

    def _sleeps(self, process: ManagedProcess) -> bool:
        return self._sleeping is not None and process in self._sleeping.asleep

    def _changes(self, process: ManagedProcess) -> bool:
        return self._sleeping is not None and self._sleeping.changes(process)

    def _rest(self, process: ManagedProcess, lease: int | None, *, off: bool) -> None:
        if self._sleeping is not None and not off and not self._sleeping.failed(process):
            if self._sleeping.changes(process):
                return
            if lease is not None and process in self._registered and self._sleeping.can(process):
                self._sleeping.rest(process, lease)
                return
        self._draining[process] = asyncio.create_task(self._drain(process))

    def _discard_sleepers(self, *, all_of_them: bool) -> None:
        """End those that sleep where none is to, those that cannot sleep or wake, and forget those that died asleep."""
        if self._sleeping is None:
            return
        for process in self.processes:
            lost = process.ended or self._sleeping.failed(process)
            if lost or (all_of_them and self._sleeps(process)):
                self._draining[process] = asyncio.create_task(self._drain(process))

    def report(self, now: float) -> Fleet:
        """Tell what it has; ``now`` by Redis's clock."""
        here = [one for one in self.awake if one.failure is None]
        falling = [one for one in here if self._changes(one) and not one.returns and one in self._registered]
        lost = [f"{one.spec.name} {one.failure}" for one in self.processes if one.failure is not None]
        running = len([one for one in here if one in self._registered and one not in falling])
        return Fleet(
            running=running, starting=len(here) - running - len(falling),
            draining=len(self._draining) + len(falling), asleep=len(self.processes) - len(self.awake), share=self.share,
            # Once in a while it has room again, as far as it knows: else nobody would look for a device any more.
            most=len(here) if self._lack and time.monotonic() < self._again_at else None,
            note=self._failure or self._lack or "; ".join(lost) or (self._sleeping.trouble if self._sleeping else ""),
            failed=bool(self._failure) and not self._hung, hung=self._hung, startup=round(self._startup, 3), at=now,
        )  # fmt: skip

    async def close(self) -> None:
        """Leave what drains to the supervisor's end."""
        if self._sleeping is not None:
            await self._sleeping.close()
        tasks = [*self._draining.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _look(self, loads: Mapping[int, Load]) -> None:
        """See which processes are registered, and since when."""
        now = time.monotonic()
        for process in self.processes:
            begun = self._begun.setdefault(process, now)
            if process.pid not in loads or (self._changes(process) and process not in self._registered):
                self._registered.discard(process)
            elif process not in self._registered:
                self._registered.add(process)
                if not process.proven or process.restarts == 0:
                    self._startup = now - begun
                process.proven = True
                if self._sleeping is not None:
                    self._sleeping.trouble = ""
                self._failures, self._failure, self._hung, self._again_at = 0, "", False, 0.0

    def _end_hung(self) -> None:
        """Kill what does not become registered, or is not any more: it would hold its device for ever."""
        heard = [
            one
            for one in self.processes
            if one in self._registered or self._sleeps(one) or self._changes(one)
        ]
        for hang in self._starts.look(self.processes, heard):
            event("scale.hung", process=hang.process.spec.name, reason=hang.reason)
            if hang.served:
                hang.process.renew(hang.reason)
            else:
                hang.process.give_up(hang.reason)

    def _discard_failed(self) -> None:
        """Forget processes that were given up; try anew after a pause."""
        for process in self.processes:
            if process.failure is None or not process.spec.elastic:
                continue
            pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**self._failures)
            self._failures += 1
            # Once is no proof that it never starts: what waits for it waits on, and others on its device go first.
            self._hung = process.hung and self._failures == 1
            self._failure = f"{process.spec.name} {process.failure}"
            self._again_at = time.monotonic() + pause
            self._draining[process] = asyncio.create_task(self._drain(process))

    def _weight(self, process: ManagedProcess, loads: Mapping[int, Load]) -> tuple[bool, int, float]:
        """Order of draining: what has not begun to serve, then what runs least, then the youngest."""
        load = loads.get(process.pid or 0)
        return load is not None, load.in_flight if load else 0, -self._begun.get(process, 0.0)

    async def _drain(self, process: ManagedProcess) -> None:
        await self._supervisor.remove(process, self._grace(process.spec))
        # After its end: until then its memory is taken.
        self._gpus.release_one(process.spec.name)
        self._registered.discard(process)
        self._begun.pop(process, None)
        del self._draining[process]
        if self._sleeping is not None:
            self._sleeping.forget(process)

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
                # The device first: without one a process would fail, and count as one that cannot start.
                self._gpus.claim([spec])
            except ConfigError as error:
                self._lack = f"waits for a free device: {error.message}"
                self._again_at = time.monotonic() + _NO_DEVICE_S
                return
            process = self._supervisor.add(self._complete(spec))
            self._begun[process] = time.monotonic()
            number -= 1
