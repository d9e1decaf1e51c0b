"""What serves HTTP in a process beside the queue."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Listener"]


class Listener(Protocol):
    """What serves HTTP beside the queue."""

    @property
    def url(self) -> str | None:
        """Where others reach it; ``None`` while it does not listen."""

    async def start(self) -> None:
        """Listen."""

    async def stop(self) -> None:
        """Stop listening; harmless when repeated."""
