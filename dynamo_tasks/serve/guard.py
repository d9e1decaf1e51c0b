"""The guard kills process groups that a killed supervisor leaves behind.

The kernel's parent-death signal reaches the children of a supervisor, not the children's own children
(an engine process, say). The guard is a process of its own that reads ``+<group>`` and ``-<group>`` lines
from a pipe; the end of the pipe means that the supervisor is gone, however it went.

Run as a file by ``python -I -S guard.py``: the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable

__all__ = ["main"]


def main(lines: Iterable[str]) -> None:
    """Follow the lines to their end, then kill every group that is still listed."""
    groups: set[int] = set()
    for line in lines:
        group = int(line[1:])
        if line.startswith("+"):
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.stdin)
