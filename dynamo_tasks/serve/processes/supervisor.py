"""Keeps a set of processes running, and takes them all down together.

Nothing outlives the supervisor, however it ends: :meth:`Supervisor.stop` terminates, then kills; if the
supervisor itself is killed, the kernel kills its children (:mod:`dynamo_tasks.serve.processes.child`) and the guard
their children (:mod:`dynamo_tasks.serve.processes.guard`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from dynamo_tasks.errors import ConfigError, UnavailableError
from dynamo_tasks.serve.processes import guard
from dynamo_tasks.serve.processes.process import ManagedProcess, kill_group
from dynamo_tasks.serve.processes.spec import Notice, NoticeKind, ProcessSpec, RestartPolicy

__all__ = ["Notice", "NoticeKind", "ProcessSpec", "RestartPolicy", "Supervisor"]

_GUARD = str(Path(guard.__file__))


class Supervisor:
    """Runs processes until it is stopped.

    Example::

        supervisor = Supervisor(specs, on_line=print_line, on_notice=print_notice)
        await supervisor.start()
        try:
            await supervisor.wait_ready()
            await supervisor.wait_failed()
        finally:
            await supervisor.stop()
    """

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        *,
        on_line: Callable[[ProcessSpec, str], None],
        on_notice: Callable[[Notice], None] = lambda notice: None,
        last_will: Sequence[str] = (),
    ) -> None:
        """Prepare; :meth:`start` starts.

        Args:
            specs: Processes with unique names.
            on_line: Gets each line of output with the spec of its process.
            on_notice: Gets each start, end, new start and failure.
            last_will: Program and arguments that the guard runs if this process is killed.

        Raises:
            ConfigError: two processes have the same name.
        """
        names = [spec.name for spec in specs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"two processes are named {min(twice)!r}")
        self._on_line, self._on_notice = on_line, on_notice
        self.processes = [self._managed(spec) for spec in specs]
        self._tasks: dict[ManagedProcess, asyncio.Task[None]] = {}
        self._guard: Process | None = None
        self._last_will = tuple(last_will)
        self._failed = asyncio.Event()
        self._reason = ""

    async def start(self) -> None:
        """Start all processes; returns before they are ready."""
        self._guard = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", _GUARD, *self._last_will),
            stdin=PIPE,
            stdout=DEVNULL,
            stderr=DEVNULL,
            start_new_session=True,
        )
        # After the guard, which hears of each of them.
        for process in self.processes:
            self._tasks[process] = asyncio.create_task(self._keep(process))

    def _managed(self, spec: ProcessSpec) -> ManagedProcess:
        return ManagedProcess(spec, on_line=self._on_line, on_notice=self._on_notice, watch=self._watch)

    def add(self, spec: ProcessSpec) -> ManagedProcess:
        """Start one more process, whose end for good does not end all others.

        Raises:
            ConfigError: there is a process of this name.
        """
        if any(process.spec.name == spec.name for process in self.processes):
            raise ConfigError(f"two processes are named {spec.name!r}")
        process = self._managed(dataclasses.replace(spec, elastic=True))
        self.processes.append(process)
        self._tasks[process] = asyncio.create_task(self._keep(process))
        return process

    async def remove(self, process: ManagedProcess, within: float) -> None:
        """Stop one process, and keep it no more; harmless where it has been given up.

        Args:
            process: One of ours.
            within: Seconds between SIGTERM and SIGKILL.
        """
        process.stop()
        task = self._tasks[process]
        await asyncio.wait([task], timeout=within)
        if not task.done():
            process.kill()
            await asyncio.wait([task])
        del self._tasks[process]
        self.processes.remove(process)

    async def wait_ready(self, and_then: Callable[[], Awaitable[None]] | None = None) -> None:
        """Wait until every process that there must be has said that it is ready.

        From then on a process that ends is started again whatever its exit code.

        Args:
            and_then: What must be true besides: awaited after that, and given up too when a service fails.

        Raises:
            UnavailableError: a process was given up; names it and the reason.
        """
        ready = asyncio.create_task(self._all_ready(and_then))
        failed = asyncio.create_task(self._failed.wait())
        try:
            await asyncio.wait({ready, failed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            failed.cancel()
            ready.cancel()
        if self._failed.is_set():
            raise UnavailableError(self._reason)
        await ready

    async def _all_ready(self, and_then: Callable[[], Awaitable[None]] | None) -> None:
        needed = [process for process in self.processes if not process.spec.elastic]
        for process in needed:
            await process.ready.wait()
        if and_then is not None:
            await and_then()
        for process in needed:
            process.proven = True

    async def wait_failed(self) -> str:
        """Wait until all processes of some service have been given up.

        Returns:
            Which one, and why.
        """
        await self._failed.wait()
        return self._reason

    async def stop(self, within: float = 3.0) -> None:
        """Stop all processes; harmless when repeated.

        Args:
            within: Seconds between SIGTERM and SIGKILL. 0 kills at once.
        """
        for process in self.processes:
            process.stop()
        tasks = [*self._tasks.values()]
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=within)
            if pending:
                await self._kill(pending)
        for task in tasks:
            task.result()
        self._tasks = {}
        await self._dismiss_guard()

    async def _kill(self, pending: set[asyncio.Task[None]]) -> None:
        for process in self.processes:
            process.kill()
        await asyncio.wait(pending)

    async def _keep(self, process: ManagedProcess) -> None:
        await process.run()
        if process.spec.elastic:
            return
        mates = [mate for mate in self.processes if mate.spec.service == process.spec.service]
        # At the start all that is configured must come up; later on the others of a service go on without one.
        if process.failure and (not process.proven or all(mate.failure for mate in mates)):
            self._reason = f"{process.spec.name} {process.failure}"
            self._failed.set()

    def _watch(self, group: int, alive: bool) -> None:
        if self._guard is None or self._guard.stdin is None or self._guard.returncode is not None:
            return
        self._guard.stdin.write(f"{'+' if alive else '-'}{group}\n".encode())

    async def _dismiss_guard(self) -> None:
        if self._guard is None:
            return
        if self._guard.stdin is not None:
            # Without this line the end of the pipe means that we were killed.
            self._guard.stdin.write(b".\n")
            self._guard.stdin.close()
        try:
            async with asyncio.timeout(0.5):
                await self._guard.wait()
        except TimeoutError:
            kill_group(self._guard.pid)
            await self._guard.wait()
        self._guard = None
