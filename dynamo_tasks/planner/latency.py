"""Times of many requests, as counts in buckets: they add up over workers and over looks."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence

import msgspec

__all__ = ["BOUNDS", "Latency", "LatencyCounts", "LatencyWindow", "summed_up"]

BOUNDS = tuple(0.001 * 2 ** (place / 2) for place in range(34))
"""Upper bounds of the buckets, seconds: 1 ms to 93 s, by the square root of 2. A last one has what is above."""


class Latency(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A time that was measured on several requests.

    Attributes:
        count: Requests.
        mean: Seconds.
        p90: Seconds within which nine of ten of them were.
        buckets: How many of them were in each bucket of :data:`BOUNDS`; empty = not known.
    """

    count: int
    mean: float
    p90: float
    buckets: tuple[int, ...] = ()

    @classmethod
    def of(cls, times: Sequence[float]) -> Latency | None:
        """Sum up times in seconds; ``None`` if there are none."""
        if not times:
            return None
        buckets = [0] * (len(BOUNDS) + 1)
        for time in times:
            buckets[bisect_left(BOUNDS, time)] += 1
        p90 = sorted(times)[int(0.9 * len(times))]
        return cls(count=len(times), mean=sum(times) / len(times), p90=p90, buckets=tuple(buckets))


class LatencyCounts:
    """Times that were measured since the start of a process.

    Attributes:
        seconds: All of them together.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._counts: list[int] = []

    @property
    def counts(self) -> tuple[int, ...]:
        """Counts by the buckets of :data:`BOUNDS`, without the empty ones at the end."""
        return tuple(self._counts)

    def add(self, time: float) -> None:
        """Take a time in seconds; one that clocks make negative is 0."""
        time = max(0.0, time)
        place = bisect_left(BOUNDS, time)
        self._counts += [0] * (place + 1 - len(self._counts))
        self._counts[place] += 1
        self.seconds += time


def summed_up(counts: Iterable[int], seconds: float, later: float = 0.0) -> Latency | None:
    """Sum up counts in buckets; ``None`` if there are none.

    Args:
        counts: By the buckets of :data:`BOUNDS`; empty ones at the end may be left out.
        seconds: All times together.
        later: What each of them was longer than measured.
    """
    buckets = [0] * (len(BOUNDS) + 1)
    for place, held in enumerate(counts):
        buckets[_moved(place, later)] += held
    count = sum(buckets)
    if not count:
        return None
    mean = max(0.0, seconds) / count + later
    window = LatencyWindow(1.0)
    found = Latency(count=count, mean=mean, p90=0.0, buckets=tuple(buckets))
    window.add(found, 0.0)
    return msgspec.structs.replace(found, p90=window.quantile(0.9))


def _moved(place: int, later: float) -> int:
    """The bucket of what is in the middle of a bucket, and so much later."""
    if not later or place >= len(BOUNDS):
        return min(place, len(BOUNDS))
    low = BOUNDS[place - 1] if place else 0.0
    return bisect_left(BOUNDS, (low + BOUNDS[place]) / 2 + later)


class LatencyWindow:
    """The distribution of a time over the last minutes; what is older counts for little.

    Args:
        seconds: How long it remembers.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._buckets = [0.0] * (len(BOUNDS) + 1)

    def add(self, seen: Latency, passed: float) -> None:
        """Take what was measured in the time that passed since the last one."""
        keep = math.exp(-passed / self._seconds)
        fresh = seen.buckets or _guess(seen)
        self._buckets = [keep * old + new for old, new in zip(self._buckets, fresh, strict=True)]

    @property
    def count(self) -> float:
        """Requests of which it knows, each for as much as it still counts."""
        return sum(self._buckets)

    def over(self, seconds: float) -> float:
        """The share of requests that took longer, 0..1."""
        place, count = bisect_left(BOUNDS, seconds), self.count
        if not count:
            return 0.0
        above = sum(self._buckets[place + 1 :])
        if place < len(BOUNDS):
            low = BOUNDS[place - 1] if place else 0.0
            above += self._buckets[place] * (BOUNDS[place] - seconds) / (BOUNDS[place] - low)
        return above / count

    def quantile(self, share: float) -> float:
        """Seconds within which that share of the requests was."""
        left = share * self.count
        for place, held in enumerate(self._buckets[:-1]):
            if held and left <= held:
                low = BOUNDS[place - 1] if place else 0.0
                return low + (BOUNDS[place] - low) * left / held
            left -= held
        return BOUNDS[-1]


def _guess(seen: Latency) -> list[float]:
    """Buckets of an exponential distribution with that 90th percentile."""
    rate = math.log(10) / max(seen.p90, 1e-6)
    below = [1 - math.exp(-rate * bound) for bound in BOUNDS]
    shares = [high - low for low, high in zip([0.0, *below], [*below, 1.0], strict=True)]
    return [seen.count * share for share in shares]
