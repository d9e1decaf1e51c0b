"""One supervised process: start, its output line by line, readiness, new start after its end.

::

    start ─▶ running ──ended──▶ waiting (backoff) ──▶ start
               │ │                  │
               │ └─ended too often──┼──▶ failed
               └─────stop()─────────┴──▶ stopped
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable
from pathlib import Path

from dynamo_tasks.serve.processes import child
from dynamo_tasks.serve.processes.spec import Notice, NoticeKind, ProcessSpec

__all__ = ["GroupWatch", "LinePump", "ManagedProcess", "describe_exit", "kill_group"]

_LONGEST = 64 * 1024


class LinePump:
    """Reads one pipe and passes on its lines.

    A pipe of its own instead of ``asyncio.subprocess.PIPE``: the end of the process and the end of its output
    are two things, since a grandchild may hold the pipe open.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        """Open the pipe.

        Args:
            on_line: Called in the loop with each line, without its end; what is not UTF-8 is replaced.
        """
        self._on_line = on_line
        self._reader, self.writer = os.pipe()
        """``writer`` is what the child gets as its output."""
        os.set_blocking(self._reader, False)
        self._rest = b""
        self._end = asyncio.Event()

    def start(self) -> None:
        """Follow the pipe; call it once the child has its copy of ``writer``."""
        os.close(self.writer)
        asyncio.get_running_loop().add_reader(self._reader, self._read)

    async def finish(self, timeout: float) -> None:
        """Take what the child had still written.

        Args:
            timeout: Seconds to wait for the end of the output.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._end.wait()
        except TimeoutError:
            self._close()

    def _read(self) -> None:
        try:
            data = os.read(self._reader, _LONGEST)
        except BlockingIOError:
            return
        if not data:
            self._close()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        # Output without line ends must not fill the memory of the supervisor.
        if len(self._rest) > _LONGEST:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._emit(line)

    def _close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._reader)
        os.close(self._reader)
        if self._rest:
            self._emit(self._rest)
        self._end.set()

    def _emit(self, line: bytes) -> None:
        self._on_line(line.decode("utf-8", "replace").rstrip("\r"))


_LAUNCHER = str(Path(child.__file__))
_READY_POLL_S = 0.1
_LAST_LINES_S = 0.5
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
"""Ends that a process did not bring about itself: what it said last is not the reason."""

GroupWatch = Callable[[int, bool], None]
"""Told of each process group: (group, True) when it starts, (group, False) when all of it has ended."""


def describe_exit(code: int) -> str:
    """``exit code 1`` or ``signal SIGKILL``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def kill_group(group: int) -> None:
    """SIGKILL to what is left of a process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


class ManagedProcess:
    """Keeps one :class:`ProcessSpec` running until :meth:`stop`, or until it is given up.

    Attributes:
        spec: What runs.
        pid: Of the current run; ``None`` between two runs. It is its process group too.
        restarts: How often it was started again.
        ready: Set once a run said that it is ready.
        proven: Whether it is known to have served; set by the supervisor.
        failure: Why it was given up; ``None`` while it was not.
        returns: Whether it is started again after its end.
        hung: Whether it was given up because it did not get on.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        *,
        on_line: Callable[[ProcessSpec, str], None],
        on_notice: Callable[[Notice], None],
        watch: GroupWatch,
    ) -> None:
        """Prepare; :meth:`run` starts it.

        Args:
            spec: What to run.
            on_line: Gets each line of its output.
            on_notice: Gets each event of its life.
            watch: See :data:`GroupWatch`.
        """
        self.spec = spec
        self.pid: int | None = None
        self.restarts = 0
        self.ready = asyncio.Event()
        self.proven = False
        self.failure: str | None = None
        self.returns = True
        self.hung = False
        self._on_line = on_line
        self._on_notice = on_notice
        self._watch = watch
        self._stopping = asyncio.Event()
        self._killing = False
        self._last_line = ""

    async def run(self) -> None:
        """Run it, again and again; returns when it was stopped or given up."""
        failures = 0
        while not self._stopping.is_set():
            start = time.monotonic()
            code = await self._once()
            if self._stopping.is_set() or not self.returns:
                return
            # What never served counts as quick: a model that cannot be loaded takes minutes to say so.
            quick = not self.proven or time.monotonic() - start < self.spec.restart.quick_s
            failures = failures + 1 if quick else 0
            reason = f"ended with {describe_exit(code)}"
            if self._last_line and code not in _FROM_OUTSIDE:
                reason += f": {self._last_line}"
            if self._hopeless(code, failures):
                self.failure = reason if failures < 2 else f"{reason} ({failures} quick ends in a row)"
                self._notify(NoticeKind.FAILED, f"{self.failure}; given up")
                return
            await self._pause(self.spec.restart.delay(failures), reason)

    @property
    def ended(self) -> bool:
        """``True`` once it has ended and does not return."""
        return self.pid is None and not self.returns

    def stop(self) -> None:
        """Ask it to end (SIGTERM to the process itself, which knows how to end its own children)."""
        self._stopping.set()
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and all of its process group at once."""
        self._stopping.set()
        self._killing = True
        if self.pid is not None:
            self._notify(NoticeKind.KILLED, f"pid {self.pid} did not stop in time, killed")
            kill_group(self.pid)

    def give_up(self, reason: str) -> None:
        """End it and all of its process group at once, and start it no more: it hangs.

        Args:
            reason: Why; ``failure`` from now on.
        """
        self.failure, self.hung = reason, True
        self._stopping.set()
        self._notify(NoticeKind.FAILED, f"{reason}; killed")
        if self.pid is not None:
            kill_group(self.pid)

    def renew(self, reason: str) -> None:
        """End this run of it at once, with all of its process group; it is started again as after any other end."""
        if self.pid is not None:
            self._notify(NoticeKind.KILLED, f"pid {self.pid} {reason}, killed")
            kill_group(self.pid)

    def _hopeless(self, code: int, failures: int) -> bool:
        policy = self.spec.restart
        return failures >= policy.max_quick_failures or (not self.proven and code in policy.fatal_codes)

    async def _pause(self, delay: float, reason: str) -> None:
        self._notify(NoticeKind.RESTARTING, f"{reason}; starts again in {delay:.1f} s")
        self.restarts += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._stopping.wait()

    async def _once(self) -> int:
        self._last_line = ""
        pump = LinePump(self._line)
        process = await self._spawn(pump)
        self._watch(process.pid, True)
        self.pid = process.pid
        self._notify(NoticeKind.STARTED, f"pid {process.pid}")
        if self._stopping.is_set():
            # It was asked to stop while it was being started.
            self.kill() if self._killing else self.stop()
        probe = asyncio.create_task(self._probe())
        try:
            return await process.wait()
        finally:
            probe.cancel()
            self.pid = None
            # Its own children would go on holding ports and devices that the next run needs.
            kill_group(process.pid)
            self._watch(process.pid, False)
            await pump.finish(_LAST_LINES_S)

    async def _spawn(self, pump: LinePump) -> Process:
        try:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", _LAUNCHER, str(os.getpid()), *self.spec.argv),
                stdin=DEVNULL,
                stdout=pump.writer,
                stderr=pump.writer,
                env=self._environment(),
                # A group of its own, to be killed as one and out of the terminal's reach; but in our session: Linux
                # shares time among sessions before it does among processes (autogroup), and an engine that waits
                # by spinning, in a session of its own, would starve the server and the frontend.
                process_group=0,
            )
        finally:
            pump.start()

    def _environment(self) -> dict[str, str]:
        # What an engine does while it loads is shown at every log level of ours.
        env = {**os.environ, "PYTHONUNBUFFERED": "1", "DYNAMO_SHOW_PROGRESS": "1", **self.spec.env}
        if self.restarts:
            # A process that is started again waits for a server that is away; at the first start it ends.
            env["DYNAMO_RESTARTS"] = str(self.restarts)
        return env

    async def _probe(self) -> None:
        ask = self.spec.ready
        if ask is not None:
            await self._until(ask)
        if not self.ready.is_set():
            self.ready.set()
            if ask is not None:
                self._notify(NoticeKind.READY, "ready")

    async def _until(self, ask: Callable[[], Awaitable[bool]]) -> None:
        while True:
            if await ask():
                return
            await asyncio.sleep(_READY_POLL_S)

    def _line(self, line: str) -> None:
        if line.strip():
            self._last_line = line.strip()
        self._on_line(self.spec, line)

    def _notify(self, kind: NoticeKind, text: str) -> None:
        self._on_notice(Notice(kind, self.spec, text))
