"""A service on Celery: a component that a worker serves, with an endpoint per method."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from dynamo_tasks.errors import AlreadyRegisteredError
from dynamo_tasks.pipelines.base_service_task import BaseServiceTask
from dynamo_tasks.pipelines.context import ServiceContext
from dynamo_tasks.pipelines.factory import ServiceFactory
from dynamo_tasks.pipelines.plan import Plan
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.runtime.annex import Annex
from dynamo_tasks.runtime.endpoint_config import EndpointConfig

__all__ = ["CeleryServiceTask"]

_END = object()
_RETRY = 0.05


class CeleryServiceTask(BaseServiceTask):
    """Serves a service from a worker process: registered and leased, its calls are Celery tasks.

    Plain methods run in ``parallelism`` threads of their own, coroutines on the worker's loop, as many at once.

    Args:
        factory: Makes the instance.
        ctx: Its context.
        plan: The job.
        annex: Where the worker takes further endpoints.
        loop: The worker's.
    """

    kind = "celery"

    def __init__(
        self,
        factory: ServiceFactory,
        ctx: ServiceContext,
        *,
        plan: Plan,
        annex: Annex,
        loop: asyncio.AbstractEventLoop,
    ):
        super().__init__(factory, ctx)
        self._plan = plan
        self._annex = annex
        self._loop = loop
        self._slots = asyncio.Semaphore(ctx.parallelism)
        self._threads = ThreadPoolExecutor(ctx.parallelism, thread_name_prefix=f"{ctx.job_id}.{self.name}")
        self._waiting = 0

    @property
    def queued(self) -> int:
        """Calls that wait for a slot in this process."""
        return self._waiting

    def _start(self) -> None:
        """Called from a thread."""
        self._on_loop(self._register())

    def _stop(self, *, drain: bool) -> None:
        self._on_loop(self._withdraw())
        self._threads.shutdown(wait=drain, cancel_futures=not drain)

    def _on_loop(self, coro: Any) -> None:
        asyncio.run_coroutine_threadsafe(coro, self._loop).result()

    def _endpoint(self, method: str) -> EndpointId:
        return self._plan.endpoint(self.name, method)

    async def _register(self) -> None:
        configs = {
            self._endpoint(method): EndpointConfig(handler=self._handler(method)) for method in self.methods
        }
        while True:
            try:
                return await self._annex.add(configs)
            except AlreadyRegisteredError:
                await asyncio.sleep(_RETRY)  # an attempt before this one is still on its way out

    async def _withdraw(self) -> None:
        await self._annex.remove([self._endpoint(method) for method in self.methods])

    def _handler(self, method: str) -> Callable[..., Any]:
        """What serves one method."""
        found = getattr(type(self.service), method)

        async def answer(request: Any) -> Any:
            async with self._slot():
                return await self._call(method, request, asynchronous=inspect.iscoroutinefunction(found))

        async def stream(request: Any) -> AsyncIterator[Any]:
            async with self._slot():
                values = await self._call(method, request, asynchronous=False)
                async for value in values if inspect.isasyncgen(values) else self._threaded(values):
                    yield value

        streaming = inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found)
        return stream if streaming else answer

    def _slot(self) -> _Slot:
        return _Slot(self, self._slots)

    async def _call(self, method: str, request: Any, *, asynchronous: bool) -> Any:
        args, kwargs = _arguments(request)
        call = partial(self.call_method, method, tuple(args), kwargs)
        if asynchronous:
            return await call()
        return await self._loop.run_in_executor(self._threads, call)

    async def _threaded(self, values: Iterator[Any]) -> AsyncIterator[Any]:
        """Iterate over a plain generator in a thread of the service's."""
        try:
            while (value := await self._loop.run_in_executor(self._threads, next, values, _END)) is not _END:
                yield value
        finally:
            self._threads.submit(values.close)  # type: ignore[attr-defined]


class _Slot:
    """A place among the calls that run at once, and in the statistics."""

    def __init__(self, task: CeleryServiceTask, slots: asyncio.Semaphore):
        self._task = task
        self._slots = slots
        self._began = 0.0

    async def __aenter__(self) -> None:
        self._task._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._task._waiting -= 1
        self._began = time.perf_counter()

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._slots.release()
        self._task.statistics.add(time.perf_counter() - self._began, ok=kind in (None, GeneratorExit))


def _arguments(request: Any) -> tuple[list[Any], dict[str, Any]]:
    """``{"args": […], "kwargs": {…}}`` as our callers send it; anything else is the one argument."""
    if isinstance(request, dict) and request.keys() <= {"args", "kwargs"} and "args" in request:
        return list(request["args"]), dict(request.get("kwargs") or {})
    return [request], {}
