"""Blocks that workers are expected to have soon, or still: those of the prompts that were sent to them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from dynamo_tasks.router.index import KvIndex

__all__ = ["ExpectedBlocks"]


class ExpectedBlocks:
    """An index of what was sent, for as long as it is believed.

    Args:
        most: Blocks of one worker that are remembered; then those that were used least recently go.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._index = KvIndex()
        self._until: dict[int, OrderedDict[int, float]] = {}

    def store(self, worker: int, hashes: Sequence[int], until: float) -> None:
        """A prompt was sent to a worker; its blocks are believed there until a time."""
        ends = self._until.setdefault(worker, OrderedDict())
        for value in reversed(hashes):  # the end of a prompt is forgotten first, as engines do
            ends[value] = until
            ends.move_to_end(value)
        self._index.store(worker, hashes)
        extra = len(ends) - self._most
        self._index.remove(worker, [ends.popitem(last=False)[0] for _ in range(extra)])

    def find(self, hashes: Sequence[int], now: float) -> dict[int, int]:
        """The workers that are expected to have the beginning of a prompt; see :meth:`KvIndex.find`."""
        if not self._until:
            return {}
        for worker, ends in self._until.items():
            old: list[int] = []
            while ends and ends[value := next(iter(ends))] <= now:
                del ends[value]
                old.append(value)
            self._index.remove(worker, old)
        return self._index.find(hashes)

    def drop(self, worker: int) -> None:
        """Know a worker no more."""
        self._index.drop(worker)
        self._until.pop(worker, None)
