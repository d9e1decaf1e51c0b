"""Environments: where a pipeline is declared, and where it runs."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.pipelines.calls.factory import ServiceEndpoint, ServiceFactory
from dynamo_tasks.pipelines.calls.settings import Settings
from dynamo_tasks.pipelines.datastream import DataStream
from dynamo_tasks.pipelines.graph.functions import BatchFunction, FunctionSpec, Items, SourceFunction
from dynamo_tasks.pipelines.graph.job import Job
from dynamo_tasks.pipelines.graph.operators import SINKS, Stage, StageKind
from dynamo_tasks.pipelines.job_services import JobServices
from dynamo_tasks.pipelines.local.job import LocalJob, connect_within
from dynamo_tasks.pipelines.service_connection import Connection
from dynamo_tasks.protocol.names import EndpointId, check_component
from dynamo_tasks.sdk import DynamoEndpoint, DynamoService

__all__ = ["BaseEnvironment", "LocalEnvironment"]

C = TypeVar("C", bound=type)


class BaseEnvironment(ABC):
    """Services and operators of one pipeline.

    Args:
        name: ``[A-Za-z0-9_-]+``.
        config: See :class:`~dynamo_tasks.pipelines.calls.settings.Settings`.

    Attributes:
        service_factories: Registered services by name.
        stages: Operators in the order of their declaration.
        jobs: What was submitted, oldest first.

    Raises:
        InvalidNameError: an empty name, or one with a character that is not allowed.
        ConfigError: a setting that is unknown or not allowed.
    """

    def __init__(self, name: str, config: Mapping[str, Any] | None = None):
        self.name = check_component(name)
        self.config = Settings.of(config)
        self.service_factories: dict[str, ServiceFactory] = {}
        self.service_endpoints: dict[str, ServiceEndpoint] = {}
        self.stages: list[Stage] = []
        self.jobs: list[Job] = []
        self._numbers: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    # -- services -----------------------------------------------------------------------------------

    @overload
    def register_service(self, name: str) -> Callable[[C], C]: ...
    @overload
    def register_service(self, name: str, cls: C, *args: Any, **kwargs: Any) -> C: ...
    @overload
    def register_service(self, name: str, cls: str | EndpointId | DynamoEndpoint) -> Any: ...
    def register_service(self, name: str, cls: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Register a service; its instance is made at submit.

        Args:
            name: What callers name it by.
            cls: Its class; without one this is a decorator. Or an endpoint that other workers serve, as an address
                (``dyn://dynamo.Worker.generate``) or as ``Worker.generate``: ``call_service("llm", "hi")`` then
                iterates over its stream.
            *args: Of the class's ``__init__``.
            **kwargs: The same.

        Returns:
            The class.

        Raises:
            InvalidNameError: an empty name, or one with a character that is not allowed.
            ConfigError: a name that is taken, or no class.
        """
        if cls is None:
            self._check_service_name(name)
            return lambda decorated: self.register_service(name, decorated, *args, **kwargs)
        if isinstance(cls, str | EndpointId | DynamoEndpoint):
            self._check_service_name(name)
            self.service_endpoints[name] = ServiceEndpoint.of(name, cls)
            return cls
        self.register_service_factory(name, ServiceFactory(name, cls, args, kwargs))
        return cls

    def register_service_factory(self, name: str, factory: ServiceFactory) -> ServiceFactory:
        """Register the factory of a service: for a ``parallelism`` of its own, or a factory of your own.

        Raises:
            InvalidNameError, ConfigError: as :meth:`register_service`.
        """
        self._check_service_name(name)
        if not isinstance(factory, ServiceFactory):
            raise ConfigError(f"expected a ServiceFactory, not {factory!r}")
        self.service_factories[name] = factory
        return factory

    def _check_service_name(self, name: str) -> None:
        check_component(name)
        known = self.service_factories.get(name) or self.service_endpoints.get(name)
        if known is not None:
            raise ConfigError(f"service {name!r} is registered already: {known!r}")

    # -- sources ------------------------------------------------------------------------------------

    def from_batch(self, batch: Any, *args: Any, **kwargs: Any) -> DataStream:
        """Records that end.

        Args:
            batch: A list or another iterable; a ``BatchFunction`` (class or instance); or a function that returns an
                iterable.
            *args: Of the class or function.
            **kwargs: The same.

        Raises:
            ConfigError: none of these.
        """
        if isinstance(batch, Iterable) and not isinstance(batch, type):
            if args or kwargs:
                raise ConfigError("from_batch takes arguments only for a function or a class")
            if isinstance(batch, str | bytes):
                raise ConfigError("from_batch takes a list of records, not one text")
            items: Iterable[Any] = batch
            return self._source("batch", FunctionSpec(Items(items)))
        return self._source("batch", FunctionSpec(_checked(batch, BatchFunction), args, kwargs))

    def from_source(self, source: Any, *args: Any, **kwargs: Any) -> DataStream:
        """Records that come until the job is stopped, or the source ends.

        Args:
            source: A ``SourceFunction`` (class or instance), or a function that returns an iterable, such as a
                generator.
            *args: Of the class or function.
            **kwargs: The same.

        Raises:
            ConfigError: none of these.
        """
        return self._source("source", FunctionSpec(_checked(source, SourceFunction), args, kwargs))

    def from_requests(self) -> DataStream:
        """Records that come as requests, one each: for :meth:`as_service`."""
        return self._source("requests", FunctionSpec(Items(())))

    def as_service(self, name: str, *, parallelism: int = 1) -> DynamoService[Any]:
        """Make the whole pipeline an endpoint: a request is a record, the list of what it collects is the answer.

        Assign it to a name of a module and serve it like any service (``celery -A dynamo_tasks worker --service
        module:Name``, ``dynamo-tasks serve module:Name``): its endpoint is ``<namespace>.<name>.process``, with
        ``.delay()``; over HTTP it is ``POST /<name>``. Operators and services run inside of its workers, one request
        at a time.

        Args:
            name: Of the component.
            parallelism: Requests at a time, each with operators of its own.

        Raises:
            ConfigError: it does not begin with ``from_requests()`` alone, or collects nothing.
        """
        from dynamo_tasks.pipelines.pipeline_service import make_service

        if parallelism < 1:
            raise ConfigError(f"parallelism must be at least 1, not {parallelism}")
        self.check()
        return make_service(self, name, parallelism)

    def _source(self, kind: StageKind, function: FunctionSpec) -> DataStream:
        return DataStream(self, [self.add_stage(kind, function)])

    # -- the graph ----------------------------------------------------------------------------------

    def next_name(self, kind: str) -> str:
        """``map-1``, ``map-2``, …"""
        self._numbers[kind] += 1
        return f"{kind}-{self._numbers[kind]}"

    def add_stage(
        self, kind: StageKind, function: FunctionSpec, *, name: str | None = None, **more: Any
    ) -> Stage:
        """Add an operator to the graph; streams call it.

        Raises:
            ConfigError: the name is taken.
            InvalidNameError: it has a character that is not allowed.
        """
        stage = Stage(check_component(name) if name else self.next_name(kind), kind, function, **more)
        if any(other.name == stage.name for other in self.stages):
            raise ConfigError(f"an operator of {self.name!r} is named {stage.name!r} already")
        self.stages.append(stage)
        return stage

    def check(self) -> None:
        """Check that the pipeline can be submitted.

        Raises:
            ConfigError: it has no operators, or one whose records nobody takes.
        """
        if not self.stages:
            raise ConfigError(f"{self.name!r} has nothing to run; begin with from_batch() or from_source()")
        used = set(itertools.chain.from_iterable(stage.inputs for stage in self.stages))
        for stage in self.stages:
            if stage.kind not in SINKS and stage not in used:
                raise ConfigError(
                    f"nobody takes the records of {stage.name!r}; end it with .sink(), .print() or .collect()"
                )

    # -- jobs ---------------------------------------------------------------------------------------

    def submit(self, autostop: bool = False) -> Job:
        """Start the pipeline.

        Args:
            autostop: Wait until all records are through. A batch ends by itself either way, and takes its services
                down; without ``autostop`` this returns at once.

        Raises:
            ConfigError: it cannot be submitted.
            JobFailedError: with ``autostop``: it failed.
        """
        self.check()
        if any(stage.kind == "requests" for stage in self.stages):
            raise ConfigError(
                "the records of from_requests() come with requests: serve as_service() instead of submit()"
            )
        job = self._launch()
        self.jobs = [known for known in self.jobs if not known.is_over] + [job]
        if autostop:
            job.wait()
        return job

    @abstractmethod
    def _launch(self) -> Job: ...

    @abstractmethod
    def connect(self) -> Connection:
        """See :func:`dynamo_tasks.pipelines.service_connection.connect`."""

    def stop(self) -> None:
        """Stop all jobs that run; what is on its way goes through."""
        for job in self.jobs:
            if not job.is_over:
                job.stop()

    def close(self) -> None:
        """Stop all jobs; the same as :meth:`stop`."""
        self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LocalEnvironment(BaseEnvironment):
    """Runs everything in threads of this process.

    The threads are no daemons: a script that ends after ``submit()`` lives on until its batch is through.

    Example:
        >>> env = LocalEnvironment("demo")
        >>> _ = env.from_batch([1, 2]).map(lambda x: x * 10).print()
        >>> job = env.submit(autostop=True)
        10
        20
    """

    def _launch(self) -> Job:
        return LocalJob(self, JobServices(self)).start()

    def connect(self) -> Connection:
        """See :func:`dynamo_tasks.pipelines.service_connection.connect`."""
        return connect_within(self, JobServices)


def _checked(given: Any, base: type) -> Any:
    """A source; refuses what is meant for the other method, and what is none at all."""
    cls = given if isinstance(given, type) else type(given)
    if issubclass(cls, base) or (callable(given) and not hasattr(given, "execute")):
        return given
    raise ConfigError(f"expected a function, or a {base.__name__} (class or instance), not {given!r}")
