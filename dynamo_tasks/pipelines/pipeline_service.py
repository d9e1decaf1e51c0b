"""A whole pipeline as a service: each request is a record, its results are the answer."""

from __future__ import annotations

from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.pipelines.graph.operators import SOURCES, Operator, Record, Stage
from dynamo_tasks.pipelines.job_services import JobServices
from dynamo_tasks.sdk import DynamoService, api, async_on_start, dynamo_endpoint, on_shutdown, service

if TYPE_CHECKING:
    from dynamo_tasks.pipelines.environment import BaseEnvironment

__all__ = ["make_service"]


class _Line:
    """One set of operators, which one request at a time goes through."""

    def __init__(self, environment: BaseEnvironment, services: JobServices):
        self._stages = [one for one in environment.stages if one.kind not in SOURCES]
        self._operators = {
            one: Operator(one, services.task_context(one.name), environment.name) for one in self._stages
        }
        for operator in self._operators.values():
            operator.function.hook("setup")

    def run(self, request: Any) -> list[Any]:
        """Send one record through the pipeline; returns what is collected, in the order of its operators."""
        results: list[Any] = []
        waiting = deque((stage, Record(None, request)) for stage in self._stages if _begins(stage))
        while waiting:
            stage, record = waiting.popleft()
            for made in self._operators[stage].handle(record):
                if stage.kind == "collect":
                    results.append(made.value)
                waiting.extend((one, made) for one in self._stages if stage in one.inputs)
        return results

    def close(self) -> None:
        """Run the functions' ``close``."""
        for operator in self._operators.values():
            operator.function.hook("close")


def _begins(stage: Stage) -> bool:
    return any(one.kind == "requests" for one in stage.inputs)


class _Pipeline:
    """The service: the pipeline's own services live with it."""

    environment: ClassVar[Any]
    lines: ClassVar[int]

    def __init__(self) -> None:
        self._services = JobServices(self.environment)
        self._idle: SimpleQueue[_Line] = SimpleQueue()

    @async_on_start
    def begin(self) -> None:
        """Start the services, make the operators."""
        self._services.start()
        for _ in range(self.lines):
            self._idle.put(_Line(self.environment, self._services))

    @on_shutdown
    def end(self) -> None:
        """Close the operators, stop the services."""
        while not self._idle.empty():
            self._idle.get().close()
        self._services.stop()

    def _run(self, request: Any) -> list[Any]:
        line = self._idle.get()
        try:
            return line.run(request)
        finally:
            self._idle.put(line)


def make_service(environment: BaseEnvironment, name: str, lines: int) -> DynamoService[Any]:
    """See :meth:`BaseEnvironment.as_service`."""
    _check(environment)

    def process(self: _Pipeline, request: Any) -> list[Any]:
        return self._run(request)

    def answer(self: _Pipeline, request: Any) -> list[Any]:
        return self._run(request)

    members = {
        "environment": environment, "lines": lines, "process": dynamo_endpoint("process")(process),
        "answer": api(f"/{name}")(answer), "__doc__": f"The pipeline {environment.name}.",
    }  # fmt: skip
    made = type(name, (_Pipeline,), members)
    found: DynamoService[Any] = service(
        dynamo={"namespace": environment.config.namespace, "name": name}, concurrency=lines
    )(made)
    return found


def _check(environment: BaseEnvironment) -> None:
    sources = [stage for stage in environment.stages if stage.kind in SOURCES]
    if [stage.kind for stage in sources] != ["requests"]:
        raise ConfigError("a pipeline that is a service has one source, from_requests()")
    if not any(stage.kind == "collect" for stage in environment.stages):
        raise ConfigError("a pipeline that is a service ends with .collect(): that is its answer")
    for stage in environment.stages:
        if stage.on_error == "dead_letter":
            raise ConfigError(
                f"{stage.name}: a pipeline that is a service keeps no dead letters; use fail or skip"
            )
