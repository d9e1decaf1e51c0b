"""Prometheus instruments, made from the catalogue.

Take an instrument once and keep it; on hot paths record once per flush, not once per token::

    flushes = metrics.counter("writer_flushes_total")
    flushes.inc()

A child with labels is looked up at every call of :func:`counter`, so that belongs outside of loops over tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from dynamo_tasks.observe.catalogue import METRICS
from dynamo_tasks.observe.schema import Metric

__all__ = ["CONTENT_TYPE", "INSTRUMENTS", "Instruments", "counter", "gauge", "histogram", "render"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""The content type of :func:`render`."""

_Instrument = TypeVar("_Instrument", Counter, Gauge, Histogram)


class Instruments:
    """All instruments of a catalogue, in a registry of their own."""

    def __init__(self, catalogue: Mapping[str, Metric] = METRICS):
        """Make the instruments.

        Args:
            catalogue: Metrics by name.
        """
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._catalogue = catalogue
        self._instruments = {metric.name: self._make(metric) for metric in catalogue.values()}
        self._found: dict[tuple[Any, ...], Any] = {}

    def counter(self, name: str, **labels: str) -> Counter:
        """The counter ``name`` for these labels.

        Raises:
            LookupError: Not in the catalogue, of another kind, or with other labels.
        """
        return self._get(Counter, name, labels)

    def gauge(self, name: str, **labels: str) -> Gauge:
        """The gauge ``name`` for these labels; raises as :meth:`counter`."""
        return self._get(Gauge, name, labels)

    def histogram(self, name: str, **labels: str) -> Histogram:
        """The histogram ``name`` for these labels; raises as :meth:`counter`."""
        return self._get(Histogram, name, labels)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format (see :data:`CONTENT_TYPE`)."""
        return generate_latest(self.registry)

    def family(self, name: str) -> Iterable[Family]:
        """Read an instrument with all of its labels, as it is collected."""
        return self._instruments[name].collect()

    def _make(self, metric: Metric) -> Counter | Gauge | Histogram:
        if metric.kind == "counter":
            return Counter(metric.full_name, metric.meaning, metric.labels, registry=self.registry)
        if metric.kind == "gauge":
            return Gauge(metric.full_name, metric.meaning, metric.labels, registry=self.registry)
        return Histogram(
            metric.full_name, metric.meaning, metric.labels, registry=self.registry, buckets=metric.buckets
        )

    def _get(self, kind: type[_Instrument], name: str, labels: Mapping[str, str]) -> _Instrument:
        key = (kind, name, *labels.items())
        found: _Instrument | None = self._found.get(key)
        if found is None:
            found = self._found[key] = self._find(kind, name, labels)
        return found

    def _find(self, kind: type[_Instrument], name: str, labels: Mapping[str, str]) -> _Instrument:
        metric = self._catalogue.get(name)
        if metric is None:
            raise LookupError(f"metric {name!r} is not in the catalogue; known: {_listed(self._catalogue)}")
        instrument = self._instruments[name]
        if not isinstance(instrument, kind):
            raise LookupError(f"metric {name!r} is a {metric.kind}, not a {kind.__name__.lower()}")
        if labels.keys() != set(metric.labels):
            raise LookupError(
                f"metric {name!r} has the labels {_listed(metric.labels)}, not {_listed(labels)}"
            )
        return instrument.labels(**labels) if labels else instrument


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


INSTRUMENTS = Instruments()
"""The instruments of this process."""

counter = INSTRUMENTS.counter
gauge = INSTRUMENTS.gauge
histogram = INSTRUMENTS.histogram
render = INSTRUMENTS.render
