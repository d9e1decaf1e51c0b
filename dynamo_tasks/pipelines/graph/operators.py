"""Operators: their declaration in the graph of a pipeline, and what one of their tasks does with a record."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import ConfigError, InvalidRequestError
from dynamo_tasks.observe import metrics
from dynamo_tasks.observe.log import event
from dynamo_tasks.pipelines.calls.context import TaskContext
from dynamo_tasks.pipelines.calls.messages import as_exception, describe_error
from dynamo_tasks.pipelines.graph.functions import FunctionSpec
from dynamo_tasks.protocol.plain import NOT_PLAIN, encode_plain, to_plain

__all__ = [
    "DeadLetter",
    "ErrorPolicy",
    "Operator",
    "Record",
    "Stage",
    "check_policy",
    "partition",
    "plain_record",
]

ErrorPolicy: TypeAlias = Literal["fail", "skip", "dead_letter"]
"""The treatment of a record that an operator cannot handle, and of its job."""

StageKind: TypeAlias = Literal[
    "batch", "source", "requests", "map", "filter", "flatmap", "keyby", "sink", "collect"
]

SOURCES = ("batch", "source", "requests")
SINKS = ("sink", "collect")


class Record(NamedTuple):
    """A value on its way, with the key that the last ``keyby`` gave it."""

    key: Any
    value: Any


class DeadLetter(NamedTuple):
    """A record that an operator with policy ``dead_letter`` could not handle.

    Attributes:
        operator: Its name.
        value: The record.
        error: ``TypeName: text``.
        time: Unix time.
    """

    operator: str
    value: Any
    error: str
    time: float


@dataclass(eq=False)
class Stage:
    """One operator in the graph.

    Attributes:
        name: Unique within its environment: ``map-1``.
        kind: What it does.
        function: With what.
        parallelism: Tasks.
        on_error: Its error policy.
        inputs: The operators that it takes records from.
    """

    name: str
    kind: StageKind
    function: FunctionSpec
    parallelism: int = 1
    on_error: ErrorPolicy = "fail"
    inputs: list[Stage] = field(default_factory=list)

    @property
    def keyed(self) -> bool:
        """``True`` if all its records have a key."""
        return self.kind == "keyby" or (bool(self.inputs) and all(stage.keyed for stage in self.inputs))


def check_policy(policy: str) -> ErrorPolicy:
    """Return an error policy as it is.

    Raises:
        ConfigError: it is none.
    """
    known = get_args(ErrorPolicy)
    if policy not in known:
        raise ConfigError(f"on_error={policy!r}{suggest(str(policy), known, label='allowed')}")
    return policy  # type: ignore[return-value]


def partition(key: Any, parallelism: int) -> int:
    """Choose the task of an operator that takes the records of a key; the same in every process.

    Raises:
        InvalidRequestError: the key is not JSON.
    """
    try:
        return zlib.crc32(encode_plain(key)) % parallelism
    except NOT_PLAIN as exc:
        raise InvalidRequestError(
            f"a key must be JSON (text, number, list, …), not {type(key).__name__}"
        ) from exc


def plain_record(value: Any, encode: Callable[[Any], bytes]) -> Any:
    """A record as it travels.

    Raises:
        InvalidRequestError: it cannot: it is no JSON, nor what becomes it.
    """
    try:
        plain = to_plain(value)
        encode(plain)
        return plain
    except NOT_PLAIN as exc:
        raise InvalidRequestError(f"records must be JSON to travel: {exc}") from exc


class Operator:
    """One task of an operator: applies its function, and its error policy.

    Args:
        stage: The operator.
        ctx: The task's context.
        pipeline: Name of the environment, for the metrics.
        encode: How records travel on; one that cannot is a bad one.

    Attributes:
        counts: ``in``, ``out``, ``skipped``, ``dead``: numbers of records.
        dead: What it could not handle, with policy ``dead_letter``, until somebody takes it from here.
    """

    def __init__(
        self, stage: Stage, ctx: TaskContext, pipeline: str, encode: Callable[[Any], bytes] | None = None
    ):
        self._encode = encode
        self.stage = stage
        self.ctx = ctx
        self.function = stage.function.make(ctx)
        self.counts = {"in": 0, "out": 0, "skipped": 0, "dead": 0}
        self.dead: list[DeadLetter] = []
        self._apply: Callable[[Record], list[Record]] = getattr(self, f"_{stage.kind}")
        self._outcomes = {
            outcome: metrics.counter(
                "operator_records_total", pipeline=pipeline, operator=stage.name, outcome=outcome
            )
            for outcome in ("ok", "skipped", "dead", "failed")
        }

    def handle(self, record: Record) -> list[Record]:
        """Apply the operator to a record; returns nothing for one that its policy passes over.

        Raises:
            Exception: what the function raises, with policy ``fail``.
        """
        self.counts["in"] += 1
        try:
            made = self._apply(record)
            if self._encode is not None:
                made = self._plain(made)
        except BaseException as exc:  # noqa: BLE001 - the user's: its policy says what becomes of it
            self._failed(record, as_exception(exc))
            return []
        self.counts["out"] += len(made)
        self._outcomes["ok"].inc()
        return made

    def _plain(self, made: list[Record]) -> list[Record]:
        assert self._encode is not None
        return [Record(to_plain(one.key), plain_record(one.value, self._encode)) for one in made]

    def _failed(self, record: Record, exc: Exception) -> None:
        policy = self.stage.on_error
        if policy == "fail":
            self._outcomes["failed"].inc()
            raise exc
        outcome = "skipped" if policy == "skip" else "dead"
        self.counts[outcome] += 1
        self._outcomes[outcome].inc()
        if policy == "dead_letter":
            self.dead.append(DeadLetter(self.stage.name, record.value, describe_error(exc), time.time()))
        event("job.bad_record", job=self.ctx.job_id, operator=self.stage.name, policy=policy, error=exc)

    # -- one method per kind ------------------------------------------------------------------------

    def _map(self, record: Record) -> list[Record]:
        return [Record(record.key, self.function.call(record.value))]

    def _filter(self, record: Record) -> list[Record]:
        return [record] if self.function.call(record.value) else []

    def _flatmap(self, record: Record) -> list[Record]:
        made = self.function.call(record.value)
        return [Record(record.key, value) for value in made] if made is not None else []

    def _keyby(self, record: Record) -> list[Record]:
        key = self.function.call(record.value)
        partition(key, 1)  # what is no key is a bad record here, and not a failure further down
        return [Record(key, record.value)]

    def _sink(self, record: Record) -> list[Record]:
        self.function.call(record.value)
        return []

    _collect = _map
