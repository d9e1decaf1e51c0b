"""Lines of a child's output, read from a pipe by the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

__all__ = ["LinePump"]

_LONGEST = 64 * 1024


class LinePump:
    """Reads one pipe and hands over its lines.

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
