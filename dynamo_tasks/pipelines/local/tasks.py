"""The tasks of a job's threads: read a source, or apply an operator to what arrives in a channel."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import cycle
from typing import TYPE_CHECKING, Any, Protocol

from dynamo_tasks.pipelines.calls.queues import RecordChannel
from dynamo_tasks.pipelines.graph.functions import Bound, SourceFunction
from dynamo_tasks.pipelines.graph.operators import Operator, Record, Stage, partition

if TYPE_CHECKING:
    from dynamo_tasks.pipelines.local.job import LocalJob

__all__ = ["Edge", "RecordTask", "Source", "Task"]


class Edge:
    """The edge from one task to all tasks of one operator that follows."""

    def __init__(self, stage: Stage, channels: list[RecordChannel[Record]]):
        self._keyed = bool(stage.inputs) and all(one.keyed for one in stage.inputs)
        self.channels = channels
        self._turns = cycle(channels)

    def send(self, record: Record) -> None:
        """Hand a record over; waits for room."""
        if len(self.channels) == 1:
            self.channels[0].put(record)
        elif self._keyed:
            self.channels[partition(record.key, len(self.channels))].put(record)
        else:
            next(self._turns).put(record)


class Task(Protocol):
    """The work of one thread of the job."""

    function: Bound
    stage: Stage
    counts: dict[str, int]

    def run(self, edges: list[Edge]) -> None:
        """Work until the end."""


class Source:
    """Reads a source."""

    def __init__(self, stage: Stage, function: Bound, stopping: threading.Event):
        self.stage = stage
        self.function = function
        self.counts = {"in": 0, "out": 0, "skipped": 0, "dead": 0}
        self._stopping = stopping

    def run(self, edges: list[Edge]) -> None:
        """See :meth:`Task.run`."""
        for value in self._values():
            for edge in edges:
                edge.send(Record(None, value))
            self.counts["out"] += 1
            if self._stopping.is_set():
                return

    def _values(self) -> Iterator[Any]:
        owner = self.function.owner
        return self._polled(owner) if isinstance(owner, SourceFunction) else self.function.batch()

    def _polled(self, source: SourceFunction) -> Iterator[Any]:
        while not self._stopping.is_set():
            try:
                value = source.execute()
            except StopIteration:
                return
            if value is not None:
                yield value
            else:
                self._stopping.wait(source.poll_interval)


class RecordTask:
    """Takes records from a channel and applies an operator to them."""

    def __init__(self, operator: Operator, channel: RecordChannel[Record], job: LocalJob):
        self.stage = operator.stage
        self.function = operator.function
        self.counts = operator.counts
        self._operator = operator
        self._channel = channel
        self._job = job

    def run(self, edges: list[Edge]) -> None:
        """See :meth:`Task.run`."""
        operator, ctx = self._operator, self._operator.ctx
        collected = self._job.collected if self.stage.kind == "collect" else None
        for record in self._channel:
            ctx.record_id = f"{ctx.name}.{ctx.task_index}:{operator.counts['in']}"
            for made in operator.handle(record):
                if collected is not None:
                    collected.put(made.value)
                for edge in edges:
                    edge.send(made)
            if operator.dead:
                self._job.add_dead_letters(operator.dead)
