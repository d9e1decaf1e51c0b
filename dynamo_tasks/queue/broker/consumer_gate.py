"""A gate before a worker's queues: an instance that is not healthy leaves messages to others."""

from __future__ import annotations

from typing import Protocol

__all__ = ["ConsumerGate"]


class _Source(Protocol):
    def interrupt(self) -> None: ...

    def proceed(self) -> None: ...


class ConsumerGate:
    """The valve between a worker's queues and its slots; what runs is not concerned.

    Attributes:
        paused: Whether it is closed.
    """

    def __init__(self) -> None:
        self.paused = False
        self._source: _Source | None = None
        self._others: list[_Source] = []

    def attach(self, source: _Source) -> None:
        """Messages come from here (again, after a reconnect)."""
        self._source = source

    def also(self, source: _Source) -> None:
        """Messages come from here, too, whatever the first source is."""
        self._others.append(source)

    def pause(self) -> None:
        """Take no more messages; one that is just arriving goes back to its queue."""
        self.paused = True
        if self._source is not None:
            self._source.interrupt()
        for source in self._others:
            source.interrupt()

    def resume(self) -> None:
        """Take messages again."""
        self.paused = False
        self.look()

    def look(self) -> None:
        """Look whether there are messages to take: there may be more room, or less."""
        if self._source is not None:
            self._source.proceed()
        for source in self._others:
            source.proceed()
