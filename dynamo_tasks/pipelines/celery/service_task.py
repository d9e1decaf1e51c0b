"""A service on Celery: a component that a worker serves, with an endpoint per method."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from dynamo_tasks.errors import AlreadyRegisteredError, ServiceCallError
from dynamo_tasks.pipelines.calls.base_service_task import BaseServiceTask
from dynamo_tasks.pipelines.calls.context import ServiceContext
from dynamo_tasks.pipelines.calls.factory import ServiceFactory
from dynamo_tasks.pipelines.plans.plan import Plan
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.runtime.components.endpoint_config import EndpointConfig
from dynamo_tasks.runtime.hosting.endpoint import HostedEndpoint
from dynamo_tasks.runtime.hosting.instance_host import InstanceHost

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
        host: Serves the endpoints of the worker, and these.
        loop: The worker's.
    """

    kind = "celery"

    def __init__(
        self,
        factory: ServiceFactory,
        ctx: ServiceContext,
        *,
        plan: Plan,
        host: InstanceHost,
        loop: asyncio.AbstractEventLoop,
    ):
        super().__init__(factory, ctx)
        self._plan = plan
        self._host = host
        self._loop = loop
        self._slots = asyncio.Semaphore(ctx.parallelism)
        self._threads = ThreadPoolExecutor(ctx.parallelism, thread_name_prefix=f"{ctx.job_id}.{self.name}")
        self._all_plain = all(_kind(type(self.service), method) == "plain" for method in self.methods)
        self._active = 0

    @property
    def queued(self) -> int:
        """Calls that wait for their turn in this process."""
        return max(0, self._active - self.ctx.parallelism)

    def _start(self) -> None:
        """Register the endpoints; called from a thread."""
        self._on_loop(self._register())

    def _stop(self, *, drain: bool) -> None:
        self._on_loop(self._withdraw())
        self._threads.shutdown(wait=drain, cancel_futures=not drain)

    def _on_loop(self, coro: Any) -> None:
        asyncio.run_coroutine_threadsafe(coro, self._loop).result()

    def _endpoint(self, method: str) -> EndpointId:
        return self._plan.endpoint(self.name, method)

    async def _register(self) -> None:
        endpoints = [self._hosted(method) for method in self.methods]
        while not self.is_ending:
            try:
                return await self._host.add(*endpoints)
            except AlreadyRegisteredError:
                await asyncio.sleep(_RETRY)  # an attempt before this one is still on its way out
        raise ServiceCallError(f"service {self.name!r} was given up while it started")

    def _hosted(self, method: str) -> HostedEndpoint:
        """An endpoint without a queue of this instance's own, since nobody calls that by name."""
        config = EndpointConfig(handler=self._handler(method))
        return HostedEndpoint.plain(self._endpoint(method), config, own_queue=False)

    async def _withdraw(self) -> None:
        await self._host.remove([self._endpoint(method) for method in self.methods])

    def _handler(self, method: str) -> Callable[..., Any]:
        """Make the function that serves one method."""
        kind = _kind(type(self.service), method)

        async def answer(request: Any) -> Any:
            call = self._bound(method, request)
            with self._counted():
                # Its threads take turns: those that wait are handled without a switch between.
                if self._all_plain:
                    return await self._in_thread(self._timed, call)
                async with self._slots:
                    with self._measured():
                        return await (call() if kind == "coroutine" else self._in_thread(call))

        async def stream(request: Any) -> AsyncIterator[Any]:
            call = self._bound(method, request)
            with self._counted():
                async with self._slots:
                    with self._measured():
                        values = await self._in_thread(call)
                        async for value in values if kind == "async_gen" else self._threaded(values):
                            yield value

        return stream if kind in ("generator", "async_gen") else answer

    def _bound(self, method: str, request: Any) -> Callable[[], Any]:
        args, kwargs = _arguments(request)
        return partial(self.call_method, method, tuple(args), kwargs)

    def _in_thread(self, call: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        return self._loop.run_in_executor(self._threads, call, *args)

    def _timed(self, call: Callable[[], Any]) -> Any:
        with self._measured():
            return call()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    @contextlib.contextmanager
    def _measured(self) -> Iterator[None]:
        began, ok = time.perf_counter(), False
        try:
            yield
            ok = True
        finally:
            self.statistics.add(time.perf_counter() - began, ok=ok)

    async def _threaded(self, values: Iterator[Any]) -> AsyncIterator[Any]:
        """Iterate over a plain generator in a thread of the service's."""
        try:
            while (value := await self._loop.run_in_executor(self._threads, next, values, _END)) is not _END:
                yield value
        finally:
            self._threads.submit(values.close)  # type: ignore[attr-defined]


def _kind(cls: type, method: str) -> str:
    found = getattr(cls, method)
    if inspect.iscoroutinefunction(found):
        return "coroutine"
    if inspect.isasyncgenfunction(found):
        return "async_gen"
    return "generator" if inspect.isgeneratorfunction(found) else "plain"


def _arguments(request: Any) -> tuple[list[Any], dict[str, Any]]:
    """``{"args": […], "kwargs": {…}}`` as our callers send it; anything else is the one argument."""
    if isinstance(request, dict) and request.keys() <= {"args", "kwargs"} and "args" in request:
        return list(request["args"]), dict(request.get("kwargs") or {})
    return [request], {}
