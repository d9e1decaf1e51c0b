"""The brakes of a policy: bounds, steps, and patience before workers go."""

from __future__ import annotations

import math
from collections import deque

import msgspec

__all__ = ["Limits", "Patience"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds that hold for every answer of a policy.

    Attributes:
        min: Fewest workers.
        max: Most workers.
        step: Most workers that one answer adds or takes away.
        cool_down: Seconds for which fewer workers must have been enough before one goes.
    """

    min: int = 1
    max: int = 8
    step: int = 2
    cool_down: float = 60.0

    def bounded(self, wanted: int, live: int) -> int:
        """Bring a number within a step of what is there, and within the bounds, which come first."""
        stepped = min(max(wanted, live - self.step), live + self.step)
        return min(max(stepped, self.min), self.max)


class Patience:
    """Goes up at once, and down to what was the most within the cool-down.

    So one look at a calm moment takes nobody away, and a load that wavers keeps the workers of its crests. A need
    between two whole numbers moves nobody: more only above ``UP`` of the next worker, less only below ``DOWN``.
    """

    UP, DOWN = 0.4, -0.2

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._needs: deque[tuple[float, float]] = deque()
        self._began = float("-inf")

    def decide(self, time: float, live: int, need: float) -> int:
        """Return the number of workers.

        Args:
            time: Of this look.
            live: Workers that are ready or start.
            need: Workers that the load needs, in parts of them.
        """
        limits, needs = self._limits, self._needs
        if not needs:
            self._began = time
        while needs and needs[-1][1] <= need:
            needs.pop()
        needs.append((time, need))
        while needs[0][0] < time - limits.cool_down:
            needs.popleft()
        most = needs[0][1]
        up, down = math.ceil(need - self.UP), math.ceil(most - self.DOWN) if most else 0
        if up > live:
            return limits.bounded(up, live)
        if down < live and time - self._began >= limits.cool_down:
            return limits.bounded(down, live)
        return limits.bounded(live, live)
