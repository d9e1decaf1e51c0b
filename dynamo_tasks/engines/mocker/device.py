"""A file that stands for the memory of a device: one mocker at a time has it, as long as it is awake."""

from __future__ import annotations

import fcntl
import os

from dynamo_tasks.errors import EngineError

__all__ = ["Device"]


class Device:
    """The memory of a device, as far as two models cannot both have it. It is free when its process has died.

    Args:
        path: Of the file; those who found it taken are written there. Empty = there is no device.
    """

    def __init__(self, path: str):
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the memory; does nothing where this one has it.

        Raises:
            EngineError: another process has it.
        """
        if not self._path or self._descriptor is not None:
            return
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.write(descriptor, f"refused {os.getpid()}\n".encode())
            os.close(descriptor)
            raise EngineError(f"out of memory: another process has {self._path}") from None
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the memory."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
