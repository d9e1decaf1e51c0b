"""Actors, which run in the processes of Ray: a service, or one task of an operator.

The user's code runs in threads, so that the process answers ``alive`` whatever that code is at. It is made from
``__init__`` on, since Ray runs nothing else when it starts an actor again; what it raises there is kept, and answers
``ready``: Ray would only say that the actor died.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from dynamo_tasks.pipelines.calls.context import ServiceContext, TaskContext
from dynamo_tasks.pipelines.calls.factory import ServiceFactory
from dynamo_tasks.pipelines.calls.messages import OUTLIVES, ServiceRequest, ServiceResponse, describe_error
from dynamo_tasks.pipelines.calls.proxy import ProxyManager
from dynamo_tasks.pipelines.calls.queues import LocalQueueDescriptor, QueueDescriptor
from dynamo_tasks.pipelines.calls.service_caller import ServiceManager
from dynamo_tasks.pipelines.graph.operators import DeadLetter, Operator, Record, Stage
from dynamo_tasks.pipelines.local.service_task import LocalServiceTask
from dynamo_tasks.pipelines.plans.plan import OperatorPlan, Plan
from dynamo_tasks.pipelines.plans.portable import load
from dynamo_tasks.pipelines.plans.trust import ANYTHING
from dynamo_tasks.pipelines.ray.queue import Answer, RayQueueDescriptor, decode_arguments
from dynamo_tasks.protocol.names import EndpointId

__all__ = ["Handled", "OperatorActor", "ServiceActor"]

T = TypeVar("T")
_END = object()


class Handled(msgspec.Struct):
    """The outcome of a chunk of records.

    Attributes:
        records: What was made of them.
        counts: By how much the counters of the task went up.
        dead: Those that could not be handled, with policy ``dead_letter``.
        error: What failed the job, after ``records``.
    """

    records: list[Record]
    counts: dict[str, int]
    dead: list[DeadLetter]
    error: str | None = None


class _Actor(ABC):
    """Common part: the thread of the user's code, and the job's services.

    Args:
        plan: The job.
    """

    def __init__(self, plan: bytes):
        self.plan = Plan.decode(plan)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=self.plan.id)
        self._making = self._threads.submit(self._begin)

    def _begin(self) -> str | None:
        try:
            self._make()
        except BaseException as exc:  # noqa: BLE001 - the user's: the caller that waits for the actor gets it
            return describe_error(exc)
        return None

    @abstractmethod
    def _make(self) -> None:
        """Make the user's object."""

    async def ready(self) -> str | None:
        """Wait until it is made; returns what failed then, ``None`` = it takes calls."""
        return await asyncio.wrap_future(self._making)

    async def alive(self) -> bool:
        """A sign of life."""
        return True

    @cached_property
    def manager(self) -> ServiceManager:
        """Calls the job's services."""
        plan = self.plan
        queues: dict[str, QueueDescriptor] = {
            one.name: RayQueueDescriptor(plan.id, one) for one in plan.hosted
        }
        queues |= _endpoints(plan)
        return ServiceManager(queues, name=plan.id, max_in_flight=plan.settings.max_in_flight)

    def common(self) -> dict[str, Any]:
        proxy = ProxyManager.of(self.manager, self.plan.settings)
        return {"env_name": self.plan.name, "job_id": self.plan.id, "proxy": proxy}


def _endpoints(plan: Plan) -> dict[str, QueueDescriptor]:
    """Services that other workers serve: the only ones that need a Redis server."""
    found = [one for one in plan.services if one.endpoint]
    if not found:
        return {}
    from dynamo_tasks.pipelines.celery.queue import EndpointQueueDescriptor, Remote

    remote = Remote.open(plan.settings.redis_url)
    return {
        one.name: EndpointQueueDescriptor(
            one.name, remote, EndpointId.parse(one.endpoint), one.endpoint_streams
        )
        for one in found
    }


class _Reply:
    """Hands the response of a thread to the coroutine that waits for it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[ServiceResponse] = self._loop.create_future()

    def put(self, response: ServiceResponse) -> None:
        self._loop.call_soon_threadsafe(self._set, response)

    def _set(self, response: ServiceResponse) -> None:
        if not self.future.done():
            self.future.set_result(response)


class ServiceActor(_Actor):
    """A service: a local service task, whose queue Ray's calls fill.

    Args:
        plan: The job.
        name: Of the service.
    """

    def __init__(self, plan: bytes, name: str):
        self._name = name
        super().__init__(plan)

    def _begin(self) -> str | None:
        failure = super()._begin()
        return failure and f"service {self._name}: {failure}"

    def _make(self) -> None:
        [plan] = [one for one in self.plan.hosted if one.name == self._name]
        spec = load(plan.function, ANYTHING)  # Ray itself unpickles what it is sent
        queue = LocalQueueDescriptor(f"{self.plan.id}.{plan.name}.requests")
        self._queue = queue.get_queue()
        self._readers = ThreadPoolExecutor(plan.parallelism, thread_name_prefix=f"{plan.name}.streams")
        ctx = ServiceContext(plan.name, request_qd=queue, parallelism=plan.parallelism, **self.common())
        factory = ServiceFactory(plan.name, spec.target, spec.args, spec.kwargs, parallelism=plan.parallelism)
        self._task = LocalServiceTask(factory, ctx)
        self._task.start_running()

    async def call(self, method: str, within: float, arguments: bytes) -> bytes:
        """Call a method; returns an :class:`Answer`. The caller waits for ``within`` seconds."""
        response = await self._ask(method, within, arguments)
        if isinstance(response, Answer):
            return response.encode()
        return Answer(response.result, response.error, response.error_types, response.execution_time).encode()

    async def stream(self, method: str, within: float, arguments: bytes) -> AsyncIterator[bytes]:
        """Call a generator; yields an :class:`Answer` per value."""
        response = await self._ask(method, within, arguments)
        if isinstance(response, Answer) or not response.success:
            error = response if isinstance(response, Answer) else Answer(None, response.error)
            yield error.encode()
            return
        values, loop = response.result, asyncio.get_running_loop()
        try:
            while (value := await loop.run_in_executor(self._readers, next, values, _END)) is not _END:
                yield Answer(value).encode()
        except RuntimeError as exc:  # what the generator raised, after its last value
            yield Answer(None, str(exc).removeprefix("Service call failed: ")).encode()
        finally:
            values.close()

    async def _ask(self, method: str, within: float, arguments: bytes) -> ServiceResponse | Answer:
        if (failure := await self.ready()) is not None:
            return Answer(error=failure)
        args, kwargs = decode_arguments(arguments)
        reply = _Reply()
        request = ServiceRequest(0, self._task.name, method, args, kwargs, time.monotonic() + within, reply)
        self._queue.put(request)
        try:
            async with asyncio.timeout(within + OUTLIVES):
                return await reply.future
        except TimeoutError as exc:  # nobody waits any more
            return Answer.failure(exc)

    async def statistics(self) -> dict[str, Any]:
        """Numbers of the service."""
        return {} if await self.ready() else self._task.get_statistics()

    async def metrics(self) -> str:
        """Numbers of the service in Prometheus' text format."""
        return "" if await self.ready() else self._task.export_metrics()

    async def stop(self, drain: bool) -> dict[str, Any]:
        """Take no more calls, run the service's ``close``; returns its last numbers."""
        if await self.ready():
            return {}
        await asyncio.to_thread(self._task.stop if drain else self._task.terminate)
        await asyncio.to_thread(self._task.cleanup)
        return self._task.get_statistics()


class OperatorActor(_Actor):
    """One task of an operator; its state is its own, and a chunk is one call.

    Args:
        plan: The job's services.
        operator: The operator.
        index: Which of its tasks.
    """

    def __init__(self, plan: bytes, operator: bytes, index: int):
        self._described = msgspec.json.decode(operator, type=OperatorPlan)
        self._index = index
        super().__init__(plan)

    def _make(self) -> None:
        plan = self._described
        stage = Stage(plan.name, plan.kind, load(plan.function, ANYTHING), plan.parallelism, plan.on_error)
        ctx = TaskContext(plan.name, task_index=self._index, parallelism=plan.parallelism, **self.common())
        self._operator = Operator(stage, ctx, self.plan.name, msgspec.json.encode)
        self._operator.function.hook("setup")

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def handle(self, first: int, chunk: bytes) -> bytes:
        """Apply the operator to a chunk.

        Args:
            first: Number of its first record among all that the task got: the same when it is asked again.
            chunk: Records.

        Returns:
            A :class:`Handled`.
        """
        if (failure := await self.ready()) is not None:
            return msgspec.json.encode(Handled([], {}, [], failure))
        return await self._in_thread(self._handle, first, chunk)

    def _handle(self, first: int, chunk: bytes) -> bytes:
        operator, before = self._operator, dict(self._operator.counts)
        made, error = self._apply(first, msgspec.json.decode(chunk, type=list[Record]))
        dead, operator.dead = operator.dead, []
        counts = {key: operator.counts[key] - before[key] for key in before}
        return msgspec.json.encode(Handled(made, counts, dead, error))

    def _apply(self, first: int, records: list[Record]) -> tuple[list[Record], str | None]:
        operator, ctx, made = self._operator, self._operator.ctx, []
        for number, record in enumerate(records, first):
            ctx.record_id = f"{self.plan.id}.{ctx.name}.{self._index}:{number}"
            try:
                made += operator.handle(record)
            except Exception as exc:  # noqa: BLE001 - the user's: it fails the job
                return made, describe_error(exc)
        return made, None

    async def close(self) -> str | None:
        """Run the function's ``close``; returns what it raised."""
        return None if await self.ready() else await self._in_thread(self._close)

    def _close(self) -> str | None:
        try:
            self._operator.function.hook("close")
        except BaseException as exc:  # noqa: BLE001 - the user's: it fails the job
            return describe_error(exc)
        return None
