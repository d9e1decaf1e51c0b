"""The guard cleans up after a killed supervisor: its process groups, then its hold on shared things.

The kernel's parent-death signal reaches the children of a supervisor, not the children's own children
(an engine process, say). The guard is a process of its own that reads lines from a pipe; the end of the
pipe means that the supervisor is gone, however it went::

    +<group>    a process group has started
    -<group>    all of it has ended
    .           the supervisor ends in good order: nothing is left to do

Run as a file by ``python -I -S guard.py [PROGRAM ARG…]``: the standard library only. The program is run in
the end, unless the supervisor said that all is well: it releases what the supervisor shared with others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable

__all__ = ["follow", "main"]


def follow(lines: Iterable[str]) -> bool:
    """Follow the lines to their end, then kill every group that is still listed.

    Returns:
        Whether the supervisor ended in good order.
    """
    groups: set[int] = set()
    orderly = False
    for line in lines:
        match line[:1]:
            case "+":
                groups.add(int(line[1:]))
            case "-":
                groups.discard(int(line[1:]))
            case _:
                orderly = True
    # The supervisor is gone: of those that it has not ended itself, nobody else knows.
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    return orderly


def main(last: list[str]) -> None:
    """Guard a supervisor whose lines come on stdin.

    Args:
        last: What to run when it was killed: program and arguments; empty = nothing.
    """
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if not follow(sys.stdin) and last:
        os.execvp(last[0], last)


if __name__ == "__main__":
    main(sys.argv[1:])
