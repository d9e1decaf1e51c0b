"""The three kinds of entries of the telemetry catalogue."""

from __future__ import annotations

import logging
from typing import Literal, NamedTuple

__all__ = ["PREFIX", "LogEvent", "Metric", "MetricKind", "SpanSpec"]

PREFIX = "dynamo_tasks_"
"""Every metric name begins with it; code names a metric without it."""

MetricKind = Literal["counter", "gauge", "histogram"]


class Metric(NamedTuple):
    """A Prometheus metric.

    Attributes:
        name: Without :data:`PREFIX`, and as it is exposed: counters end in ``_total``.
        kind: ``counter``, ``gauge`` or ``histogram``.
        unit: ``seconds``, ``bytes``, ``ratio``, or what is counted.
        meaning: One sentence.
        labels: Names of the labels, each of few values: never a request id.
        buckets: Upper bounds of a histogram, in ``unit``; empty for the other kinds.
    """

    name: str
    kind: MetricKind
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        """The name that Prometheus sees."""
        return PREFIX + self.name


class LogEvent(NamedTuple):
    """A structured log line.

    Attributes:
        name: ``<area>.<what happened>``; the area names the logger.
        level: A level of :mod:`logging`.
        meaning: One sentence.
        fields: All fields that it may carry; each is optional at the call.
    """

    name: str
    level: int
    meaning: str
    fields: tuple[str, ...] = ()

    @property
    def logger(self) -> str:
        """The name of its logger, e.g. ``dynamo_tasks.request``."""
        return f"dynamo_tasks.{self.name.partition('.')[0]}"

    @property
    def level_name(self) -> str:
        """``DEBUG``, ``INFO``, …"""
        return logging.getLevelName(self.level)


class SpanSpec(NamedTuple):
    """A span of a distributed trace.

    Attributes:
        name: Its name.
        process: Where it is recorded: ``client``, ``frontend`` or ``worker``.
        kind: OpenTelemetry's kind: ``server``, ``producer``, ``consumer`` or ``internal``.
        meaning: What lies between its start and its end.
        attributes: Names of its attributes.
    """

    name: str
    process: str
    kind: str
    meaning: str
    attributes: tuple[str, ...] = ()
