"""Launcher of a supervised process: ties its life to the supervisor's, then becomes the real program.

Run as a file by ``python -I -S child.py SUPERVISOR_PID PROGRAM ARG…``. It needs the standard library only,
so that it costs some milliseconds and no import of ours. Setting the death signal here and not in a
``preexec_fn`` keeps Python code out of the forked copy of a process that has threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> int:
    """Replace this process by the program.

    Args:
        argv: Pid of the supervisor, program, its arguments.

    Returns:
        127 when the program cannot be run, 1 when the supervisor is gone already.
    """
    parent, *command = argv
    if sys.platform == "linux":
        # Kept over exec. SIGKILL, since a child that hangs would not react to anything else.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        return 1
    for reach in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2):
        # It shares the supervisor's terminal, in the background: who opens it gets an error, and is not stopped.
        # The other two end a program that has no use for them, unless they are ignored.
        signal.signal(reach, signal.SIG_IGN)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
