"""One set of slots for several lanes: who pops next, and how many slots are free."""

from __future__ import annotations

import asyncio
from typing import Any

from dynamo_tasks.queue.broker.puller import Puller

__all__ = ["SharedSlots"]


class SharedSlots:
    """The slots of a worker, and the pullers that take messages for them; see :class:`SlotTurns`.

    The order in which pullers are woken is that in which they get slots of which there are too few for all.

    Args:
        lanes: How many there are.
        pool: The worker's.
    """

    def __init__(self, lanes: int, pool: Any):
        self.lanes = lanes
        self.one = asyncio.Lock()
        self.held = 0
        """Messages of further lanes that are here."""
        self.begun = 0
        """Of these, such as run."""
        self._pool = pool
        self._pullers: dict[int, Puller] = {}
        self._last = 0

    def add(self, lane: int, puller: Puller) -> None:
        """A lane has a puller, in the place of an earlier one."""
        self._pullers[lane] = puller

    def served(self, puller: Puller) -> None:
        """It got something: the others come before it the next time."""
        self._last = next((lane for lane, one in self._pullers.items() if one is puller), self._last)

    def wake(self) -> None:
        """There may be room: all look, those first that come after the last one that got something."""
        for lane in sorted(self._pullers, key=lambda lane: (lane <= self._last, lane)):
            self._pullers[lane].wake()

    def taken(self, unacknowledged: int) -> int:
        """Slots that are taken.

        Args:
            unacknowledged: Messages of the first lane that are here; what ran when its connection was lost is counted
                by the pool.
        """
        return self.held + max(unacknowledged, int(self._pool.running) - self.begun)

    @property
    def slots(self) -> int:
        """All of them."""
        return int(self._pool.slots)
