"""The records of a pipeline between two operators, and the operators that can follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.pipelines.graph.functions import FunctionSpec
from dynamo_tasks.pipelines.graph.operators import Stage, StageKind, check_policy

if TYPE_CHECKING:
    from dynamo_tasks.pipelines.environment import BaseEnvironment

__all__ = ["DataStream", "keep_record", "print_record"]


class DataStream:
    """The records that flow out of one operator, or of several that were connected.

    Every operator that follows gets all of its records, so that using a stream twice is a branch; ``connect``
    merges. All operators take ``fn, *args, parallelism=1, on_error=…, name=…, **kwargs``:

    * ``fn``: a function class (its arguments are ``*args, **kwargs``), an instance of one, or a plain callable (it
      gets the record, then ``*args, **kwargs``);
    * ``parallelism``: tasks. After ``keyby`` a record's key chooses the task, so the order within a key is kept;
      elsewhere they take turns;
    * ``on_error``: ``fail`` (the job fails), ``skip`` (counted and logged) or ``dead_letter`` (kept for
      ``job.dead_letters()``); the environment's by default.
    """

    def __init__(self, environment: BaseEnvironment, stages: list[Stage]):
        self.environment = environment
        self._stages = stages

    def __repr__(self) -> str:
        return f"<DataStream of {', '.join(stage.name for stage in self._stages)}>"

    def map(self, fn: Any, *args: Any, **options: Any) -> DataStream:
        """One record for each."""
        return self._follow("map", fn, args, options)

    def filter(self, fn: Any, *args: Any, **options: Any) -> DataStream:
        """The records for which ``fn`` is true."""
        return self._follow("filter", fn, args, options)

    def flatmap(self, fn: Any, *args: Any, **options: Any) -> DataStream:
        """All of what ``fn`` gives for each."""
        return self._follow("flatmap", fn, args, options)

    def keyby(self, fn: Any, *args: Any, **options: Any) -> DataStream:
        """The same records, with a key each; in one task, since several would mix up the order within a key."""
        if options.get("parallelism", 1) != 1:
            raise ConfigError(
                "keyby runs in one task, which keeps the order; give the operators behind it parallelism"
            )
        return self._follow("keyby", fn, args, options)

    def sink(self, fn: Any, *args: Any, **options: Any) -> DataStream:
        """Hand each to ``fn``; returns this stream, for another branch."""
        self._follow("sink", fn, args, options)
        return self

    def print(self, prefix: str = "", **options: Any) -> DataStream:
        """Print each, after a prefix; returns this stream."""
        return self.sink(print_record, prefix, **{"name": self.environment.next_name("print"), **options})

    def collect(self) -> DataStream:
        """Keep each for ``job.results()``; returns this stream."""
        self.environment.add_stage("collect", FunctionSpec(keep_record), inputs=self._stages)
        return self

    def connect(self, *others: DataStream) -> DataStream:
        """The records of this stream and of others, as they come.

        Raises:
            ConfigError: a stream of another environment.
        """
        for other in others:
            if other.environment is not self.environment:
                raise ConfigError(f"{other!r} belongs to environment {other.environment.name!r}")
        stages = dict.fromkeys(stage for stream in (self, *others) for stage in stream._stages)
        return DataStream(self.environment, list(stages))

    def _follow(self, kind: StageKind, fn: Any, args: tuple[Any, ...], options: dict[str, Any]) -> DataStream:
        parallelism = options.pop("parallelism", 1)
        if not isinstance(parallelism, int) or isinstance(parallelism, bool) or parallelism < 1:
            raise ConfigError(f"parallelism must be an integer from 1 on, not {parallelism!r}")
        policy = check_policy(options.pop("on_error", self.environment.config.on_error))
        name = options.pop("name", None)
        spec = FunctionSpec(fn, args, options)
        stage = self.environment.add_stage(
            kind, spec, name=name, parallelism=parallelism, on_error=policy, inputs=self._stages
        )
        return DataStream(self.environment, [stage])


def keep_record(record: Any) -> Any:
    """The record: what ``collect`` keeps."""
    return record


def print_record(record: Any, prefix: str = "") -> None:
    """Print a record on a line of its own, in one write: lines of several threads don't mix."""
    print(f"{prefix}{record}\n", end="", flush=True)
