"""The interface of an HTTP server in a process, beside the queue."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Listener"]


class Listener(Protocol):
    """An HTTP server beside the queue."""

    @property
    def url(self) -> str | None:
        """The URL at which others reach it; ``None`` while it does not listen."""

    async def start(self) -> None:
        """Listen."""

    async def stop(self) -> None:
        """Stop listening; harmless when repeated."""
