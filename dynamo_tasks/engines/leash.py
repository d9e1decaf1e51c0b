"""Child processes that die with their parent, however it ends.

vLLM's engine core is a child process that `multiprocessing` spawns, and it spawns workers of its own. When
the worker process gets SIGKILL, they would live on, with all of the GPU's memory. The kernel can kill them
(``PR_SET_PDEATHSIG``), but only a process itself can ask for that. So what a spawned interpreter is told to
run gets one more line in front: it runs this file, which asks, and which does the same to the process's own
children.

The kernel goes by the *thread* that made a child: that one must live as long as the child shall.

Needs the standard library only: it runs before the child has its ``sys.path``.
"""

from __future__ import annotations

import ctypes
import multiprocessing.spawn
import os
import signal
import sys
from typing import Any

__all__ = ["hold", "leash_children"]

_PR_SET_PDEATHSIG = 1
_RUN = "import runpy; runpy.run_path({file!r})['hold']({parent}); {program}"

_original = multiprocessing.spawn.get_command_line


def leash_children() -> None:
    """From now on, whatever this process spawns dies with the thread that spawned it. Linux only."""
    if sys.platform == "linux":
        multiprocessing.spawn.get_command_line = _command_line


def hold(parent: int) -> None:
    """Tie this process to its parent; ends it at once where the parent has gone already.

    Args:
        parent: Its process id.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    leash_children()


def _command_line(**kwargs: Any) -> list[str]:
    """What `multiprocessing` would run: ``[python, *options, "-c", program, …]``, with a line in front."""
    argv = _original(**kwargs)
    if "-c" in argv:  # a frozen program has none
        program = argv.index("-c") + 1
        argv[program] = _RUN.format(file=__file__, parent=os.getpid(), program=argv[program])
    return argv
