"""The number of instances that is wanted where no hand says so: none while nobody asks, some once they do."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo_tasks.protocol.scale import Bounds, Scale, ScaledBy

__all__ = ["Demand", "next_wanted"]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """The demand that requests make on a component.

    Attributes:
        waiting: Those that wait for it.
        running: Those that it runs.
        quiet: Seconds since it last had any.
        known: Whether its models are listed while none of its instances runs, or it has none.
        planned: What a planner's policy wants; ``None`` where there is none, or it was not asked this time.
    """

    waiting: int = 0
    running: int = 0
    quiet: float = 0.0
    known: bool = False
    planned: int | None = None


def next_wanted(scale: Scale, bounds: Bounds, seen: Demand) -> tuple[int, ScaledBy] | None:
    """Return how many are wanted from now on, and by whom; ``None`` where that stays as it is.

    Args:
        scale: As it stands.
        bounds: Of its deployment.
        seen: What requests ask for.
    """
    if not bounds.automatic or (scale.by is ScaledBy.HAND and scale.wanted is not None):
        return None
    number, by = _decide(scale, bounds, seen)
    number = bounds.clamp(number)
    return None if number == scale.wanted else (number, by)


def _decide(scale: Scale, bounds: Bounds, seen: Demand) -> tuple[int, ScaledBy]:
    if scale.wanted is None:
        # A model that nobody knows yet is started once, so that it can be listed.
        return (0 if bounds.min == 0 and seen.known and not seen.waiting else bounds.workers), ScaledBy.START
    if scale.wanted == 0:
        return (bounds.workers, ScaledBy.QUEUE) if seen.waiting else (0, scale.by)
    asleep = bounds.idle > 0 and not (seen.waiting or seen.running) and seen.quiet >= bounds.idle
    if asleep and scale.wanted > bounds.min:
        # A model that did not start yet is not listed: it would be gone for good.
        return (bounds.min, ScaledBy.IDLE) if seen.known or bounds.min else (scale.wanted, scale.by)
    if seen.planned is not None and not (asleep and bounds.min == scale.wanted):
        return max(1, seen.planned), ScaledBy.PLANNER
    return scale.wanted, scale.by
