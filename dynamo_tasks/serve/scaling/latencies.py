"""Times that a frontend has measured, out of what it shows Prometheus; and those that workers report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import zip_longest

from dynamo_tasks.planner import Latency, summed_up
from dynamo_tasks.protocol.instances import Load

__all__ = ["Histogram", "growth", "queue_times", "read_histogram"]

_SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Histogram = dict[float, float]
"""Upper bound in seconds → how many were not above it; and the sum of all, at -1."""

_SUM = -1.0


def read_histogram(text: str, name: str, models: Iterable[str]) -> Histogram:
    """Read a histogram, of some models together.

    Args:
        text: In the format of Prometheus.
        name: With its prefix, without ``_bucket``.
        models: Their names; others are left out.
    """
    wanted, found = set(models), Histogram()
    for line in text.splitlines():
        if not line.startswith(name):
            continue
        sample = _SAMPLE.match(line)
        labels = dict(_LABEL.findall(sample[2])) if sample else {}
        if sample is None or labels.get("model") not in wanted:
            continue
        if sample[1] == f"{name}_bucket":
            bound = float(labels["le"])
            found[bound] = found.get(bound, 0.0) + float(sample[3])
        elif sample[1] == f"{name}_sum":
            found[_SUM] = found.get(_SUM, 0.0) + float(sample[3])
    return found


def growth(new: Histogram, old: Histogram) -> Latency | None:
    """Return what was measured between two looks; ``None`` where that is nothing, or the frontend began anew."""
    grown = {bound: value - old.get(bound, 0.0) for bound, value in new.items()}
    bounds = sorted(bound for bound in grown if bound != _SUM)
    count = round(grown[bounds[-1]]) if bounds else 0
    if count <= 0 or min(grown.values()) < 0:
        return None
    return Latency(count=count, mean=grown.get(_SUM, 0.0) / count, p90=_quantile(grown, bounds, 0.9 * count))


def _quantile(counts: Histogram, bounds: list[float], rank: float) -> float:
    """The bound below which so many are; within a bucket they are taken to be spread evenly, as Prometheus does."""
    low, before = 0.0, 0.0
    for bound in bounds:
        if counts[bound] >= rank:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (rank - before) / max(1e-9, counts[bound] - before)
        low, before = bound, counts[bound]
    return low


def queue_times(new: Mapping[int, Load], old: Mapping[int, Load]) -> Latency | None:
    """Return for how long requests that began between two looks had waited: in the queue, and inside of engines.

    Engines tell how many wait inside of them, and not who: their share is the mean wait there, the same for all.

    Args:
        new: What instances report now, by their leases.
        old: What they reported then; one that is new has counted from 0.
    """
    counts: list[int] = []
    queued = engine = 0.0
    for lease, load in new.items():
        before = old.get(lease, Load())
        grown = [now - then for now, then in zip_longest(load.waits, before.waits, fillvalue=0)]
        counts = [one + more for one, more in zip_longest(counts, grown, fillvalue=0)]
        queued += load.waited_s - before.waited_s
        engine += load.engine_waited_s - before.engine_waited_s
    return summed_up(counts, queued, engine / max(1, sum(counts)))
