"""Child processes that die with their parent, however it ends.

vLLM's engine core is a child process that `multiprocessing` spawns, and it spawns workers of its own. When
the worker process gets SIGKILL, they would live on, with all of the GPU's memory. The kernel can kill them
(``PR_SET_PDEATHSIG``), but only a process itself can ask for that. So what a spawned interpreter is asked to
run gets one more line in front: it runs this file, which asks, and which does the same to the process's own
children.

The kernel goes by the *thread* that made a child, and vLLM spawns from threads that end before their
children do. So one thread makes all of them, which lives as long as the process.

Needs the standard library only: it runs before the child has its ``sys.path``.
"""

from __future__ import annotations

import ctypes
import multiprocessing.spawn
import multiprocessing.util
import os
import queue
import runpy
import signal
import sys
import threading
from concurrent.futures import Future
from typing import Any

__all__ = ["end_children_with_parent", "hold"]

_PR_SET_PDEATHSIG = 1
_RUN = "import runpy; runpy.run_path({file!r})['hold']({parent}, {prelude!r}); {program}"

_prelude: str | None = None
_get_command_line = multiprocessing.spawn.get_command_line
_spawnv = multiprocessing.util.spawnv_passfds


def end_children_with_parent(prelude: str | None = None) -> None:
    """Make all that this process spawns from now on die with it; a second call does nothing. Linux only.

    Args:
        prelude: A file whose ``begin()`` each of them calls first, and what they spawn, too.
    """
    global _prelude
    _prelude = prelude
    if sys.platform == "linux" and multiprocessing.spawn.get_command_line is not _command_line:
        multiprocessing.spawn.get_command_line = _command_line
        multiprocessing.util.spawnv_passfds = _Spawner().spawn


def hold(parent: int, prelude: str | None = None) -> None:
    """Tie this process to its parent; ends it at once where the parent has gone already.

    Args:
        parent: Its process id.
        prelude: See :func:`end_children_with_parent`.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    end_children_with_parent(prelude)
    if prelude is not None:
        runpy.run_path(prelude)["begin"]()


def _command_line(**kwargs: Any) -> list[str]:
    """Put a line in front of `multiprocessing`'s program in ``[python, *options, "-c", program, …]``."""
    argv = _get_command_line(**kwargs)
    if "-c" in argv:  # a frozen program has none
        program = argv.index("-c") + 1
        argv[program] = _RUN.format(
            file=__file__, parent=os.getpid(), prelude=_prelude, program=argv[program]
        )
    return argv


class _Spawner:
    """Takes the place of `multiprocessing.util.spawnv_passfds`: one thread makes all children."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[int], set[int], Any]] = queue.SimpleQueue()
        self._pid = os.getpid()
        threading.Thread(target=self._run, name="parent-death-signal", daemon=True).start()

    def spawn(self, path: Any, args: Any, passfds: Any) -> int:
        """Start a process for any calling thread; return its id."""
        if os.getpid() != self._pid:
            return _spawnv(path, args, passfds)  # a fork of this process, which has not got the thread
        done: Future[int] = Future()
        self._jobs.put((done, os.sched_getaffinity(0), (path, args, passfds)))
        return done.result()

    def _run(self) -> None:
        while True:
            done, cores, call = self._jobs.get()
            try:
                os.sched_setaffinity(0, cores)  # as the caller's thread: the child inherits it
                done.set_result(_spawnv(*call))
            except BaseException as error:  # noqa: BLE001 - the caller's to deal with
                done.set_exception(error)
