"""A service in this process: threads that take calls from a queue."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator, Iterator
from queue import Empty, SimpleQueue
from typing import Any

from dynamo_tasks.errors import ServiceCallError
from dynamo_tasks.pipelines.calls.base_service_task import BaseServiceTask
from dynamo_tasks.pipelines.calls.messages import ServiceRequest, ServiceResponse
from dynamo_tasks.pipelines.calls.value_stream import ValueStream

__all__ = ["LocalServiceTask"]


class LocalServiceTask(BaseServiceTask):
    """Runs calls in ``ctx.parallelism`` threads of its own, one after the other in each.

    Methods may be plain functions, coroutines, generators and async generators; each thread has an event loop for
    the asynchronous ones. A generator's values go to the caller as they are made.
    """

    kind = "local"

    def _start(self) -> None:
        self._queue: SimpleQueue[ServiceRequest | None] = self.ctx.request_qd.get_queue()  # type: ignore[assignment]
        self._refusing = False
        self._streams: set[Any] = set()
        self._threads = [
            threading.Thread(target=self._queue_listener_loop, name=f"{self.ctx.job_id}.{self.name}.{index}")
            for index in range(self.ctx.parallelism)
        ]
        for thread in self._threads:
            thread.start()

    def _stop(self, *, drain: bool) -> None:
        self._refusing = not drain
        if not drain:
            for stream in list(self._streams):
                stream.close()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._refuse_rest()

    def _refuse_rest(self) -> None:
        """Answer what was put after the end, too."""
        while True:
            try:
                request = self._queue.get_nowait()
            except Empty:
                return
            if request is not None:
                self._refuse(request)

    def _refuse(self, request: ServiceRequest) -> None:
        error = ServiceCallError(f"service {self.name!r} has stopped")
        request.response_queue.put(ServiceResponse.failure(request.request_id, error))

    @property
    def queued(self) -> int:
        """Calls that wait."""
        return self._queue.qsize() if self.is_running else 0

    def _queue_listener_loop(self) -> None:
        runner = asyncio.Runner()  # its loop is made by the first asynchronous method
        try:
            while (request := self._queue.get()) is not None:
                if self._refusing:
                    self._refuse(request)
                elif request.expired:
                    self.statistics.add_expired()
                else:
                    self._answer(request, runner)
        finally:
            runner.close()

    def _answer(self, request: ServiceRequest, runner: asyncio.Runner) -> None:
        began = time.perf_counter()
        try:
            result = self.call_method(request.method_name, request.args, request.kwargs)
            if inspect.iscoroutine(result):
                result = runner.run(result)
        except BaseException as exc:  # noqa: BLE001 - the user's: its caller gets it
            elapsed = time.perf_counter() - began
            self.statistics.add(elapsed, ok=False)
            request.response_queue.put(ServiceResponse.failure(request.request_id, exc, elapsed))
            return
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            self._stream(request, result if inspect.isgenerator(result) else _values(runner, result))
            elapsed = time.perf_counter() - began
        else:
            elapsed = time.perf_counter() - began
            request.response_queue.put(ServiceResponse(True, result, None, elapsed, request.request_id))
        self.statistics.add(elapsed, ok=True)

    def _stream(self, request: ServiceRequest, values: Iterator[Any]) -> None:
        stream = ValueStream()
        pump: Any = stream.pump
        self._streams.add(pump)
        request.response_queue.put(ServiceResponse(True, stream, None, 0.0, request.request_id))
        del stream  # the caller's alone: once it forgets it, the generator ends
        try:
            pump(values)
        finally:
            self._streams.discard(pump)


def _values(runner: asyncio.Runner, source: AsyncIterator[Any]) -> Iterator[Any]:
    """Iterate over an async generator on a loop of this thread."""
    try:
        while True:
            try:
                yield runner.run(_next(source))
            except StopAsyncIteration:
                return
    finally:
        runner.run(source.aclose())  # type: ignore[attr-defined]


async def _next(source: AsyncIterator[Any]) -> Any:
    return await anext(source)
