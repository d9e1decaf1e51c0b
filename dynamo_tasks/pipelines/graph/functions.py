"""Functions of operators: classes to derive from, and how plain callables, classes and instances become operators."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.pipelines.calls.context import Calls, TaskContext
from dynamo_tasks.pipelines.calls.factory import make_instance

__all__ = [
    "BaseFunction",
    "BatchFunction",
    "FilterFunction",
    "FlatMapFunction",
    "FunctionSpec",
    "Items",
    "KeyByFunction",
    "MapFunction",
    "SinkFunction",
    "SourceFunction",
]


class BaseFunction(Calls):
    """Common part: ``execute``, calls of services, hooks.

    An object is made per task of its operator, with ``ctx`` there before ``__init__`` runs.
    """

    ctx: TaskContext

    def setup(self) -> None:
        """Runs once, before the first record."""

    def close(self) -> None:
        """Runs once, after the last record."""

    @property
    def record_id(self) -> str:
        """Names the record in hand; see :class:`~dynamo_tasks.pipelines.calls.context.TaskContext`."""
        return self.ctx.record_id


class MapFunction(BaseFunction):
    """Makes one record of one."""

    def execute(self, record: Any) -> Any:
        """The new record."""
        raise NotImplementedError


class FilterFunction(BaseFunction):
    """Says which records go on."""

    def execute(self, record: Any) -> bool:
        """Return whether the record goes on."""
        raise NotImplementedError


class FlatMapFunction(BaseFunction):
    """Makes any number of records of one."""

    def execute(self, record: Any) -> Iterable[Any] | None:
        """The new records; ``None`` = none."""
        raise NotImplementedError


class KeyByFunction(BaseFunction):
    """Gives each record a key: after it, records of one key keep their order, whatever the parallelism."""

    def execute(self, record: Any) -> Any:
        """The key: JSON."""
        raise NotImplementedError


class SinkFunction(BaseFunction):
    """Takes the records."""

    def execute(self, record: Any) -> None:
        """Take one."""
        raise NotImplementedError


class BatchFunction(BaseFunction):
    """A source that ends: ``execute()`` gives the next record, ``None`` at the end."""

    def execute(self) -> Any:
        """The next record, or ``None``."""
        raise NotImplementedError


class SourceFunction(BaseFunction):
    """A source that runs until the job is stopped, or until it raises ``StopIteration``."""

    poll_interval: float = 0.05
    """Seconds until it is asked again when it had nothing."""

    def execute(self) -> Any:
        """The next record; ``None`` = nothing at the moment."""
        raise NotImplementedError

    def position(self) -> Any:
        """The position after the last record, as JSON; kept with the records that it belongs to."""
        return None

    def seek(self, position: Any) -> None:
        """Go on after a position: another worker has taken the source over."""


class Items:
    """The records of a list, or of another iterable, as a source."""

    def __init__(self, items: Iterable[Any]):
        self._items = items
        self._read = False

    def __call__(self) -> Iterable[Any]:
        """The records.

        Raises:
            ConfigError: they come from an iterator, and were read before: nothing would be left.
        """
        if self._read and iter(self._items) is self._items:
            raise ConfigError(
                "the iterator of from_batch was read by an earlier job; give a list, or a function that makes one"
            )
        self._read = True
        return self._items


@dataclass(frozen=True)
class FunctionSpec:
    """The function that was given to an operator, and its arguments.

    Attributes:
        target: A function class, an instance of one, or a plain callable.
        args: After the record, for a callable; for ``__init__``, for a class.
        kwargs: The same.
    """

    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (callable(self.target) or hasattr(self.target, "execute")):
            raise ConfigError(
                f"an operator takes a function, a function class or an instance, not {self.target!r}"
            )
        if self.is_instance and (self.args or self.kwargs):
            raise ConfigError(
                f"{self.name} is an instance already; give its class to have arguments passed on"
            )

    @property
    def is_class(self) -> bool:
        """``True`` if an object of it is to be made per task; ``str`` and its like are plain callables."""
        return isinstance(self.target, type) and hasattr(self.target, "execute")

    @property
    def is_instance(self) -> bool:
        """``True`` if it is an object with ``execute``."""
        return not isinstance(self.target, type) and hasattr(self.target, "execute")

    @property
    def name(self) -> str:
        """The function's name, for the names of operators."""
        target = type(self.target) if self.is_instance else self.target
        return str(getattr(target, "__name__", type(target).__name__)).strip("<>")

    def make(self, ctx: TaskContext) -> Bound:
        """Make what one task runs; what the class's ``__init__`` raises goes through."""
        if self.is_class:
            made = make_instance(self.target, self.args, self.kwargs, ctx)
            return Bound(made.execute, made)
        if self.is_instance:
            made = copy.copy(self.target)  # a task of its own context
            made.ctx = ctx
            return Bound(made.execute, made)
        return Bound(self._plain(), None)

    def _plain(self) -> Callable[..., Any]:
        target, args, kwargs = self.target, self.args, self.kwargs
        if not args and not kwargs:
            return cast("Callable[..., Any]", target)
        return lambda *record: target(*record, *args, **kwargs)


@dataclass(frozen=True)
class Bound:
    """A function as one task runs it.

    Attributes:
        call: Takes a record (a source: nothing).
        owner: The object behind it, for its hooks.
    """

    call: Callable[..., Any]
    owner: Any

    def hook(self, name: str) -> None:
        """Run ``setup`` or ``close``, where there is one."""
        found = getattr(self.owner, name, None)
        if callable(found):
            found()

    def batch(self) -> Iterator[Any]:
        """The records of a source that ends."""
        if isinstance(self.owner, BatchFunction):
            return iter(self.call, None)
        return iter(self.call())
