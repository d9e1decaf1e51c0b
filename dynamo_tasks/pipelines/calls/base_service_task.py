"""A service at run time: made by its factory, called through the queue of its context, its calls counted."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, ClassVar, Self

from dynamo_tasks.errors import ServiceCallError
from dynamo_tasks.observe import metrics
from dynamo_tasks.observe.log import event
from dynamo_tasks.pipelines.calls.context import ServiceContext
from dynamo_tasks.pipelines.calls.factory import ServiceFactory
from dynamo_tasks.pipelines.calls.service_methods import method_names, refuse_method

__all__ = ["BaseServiceTask", "CallStatistics"]


class CallStatistics:
    """Counters of one service task, and the process's metrics of that service.

    Args:
        service: Its name.
    """

    def __init__(self, service: str):
        self._service = service
        self._lock = threading.Lock()
        self._started = time.time()
        self._calls = self._errors = self._expired = 0
        self._seconds = self._slowest = 0.0
        self._seconds_metric = metrics.histogram("service_call_seconds", service=service)
        self._outcomes = {
            outcome: metrics.counter("service_calls_total", service=service, outcome=outcome)
            for outcome in ("ok", "error", "expired")
        }

    def add(self, seconds: float, *, ok: bool) -> None:
        """Count a call that has ended."""
        with self._lock:
            self._calls += 1
            self._errors += not ok
            self._seconds += seconds
            self._slowest = max(self._slowest, seconds)
        self._outcomes["ok" if ok else "error"].inc()
        self._seconds_metric.observe(seconds)

    def add_expired(self) -> None:
        """Count a call that was dropped, since its caller had given up."""
        with self._lock:
            self._expired += 1
        self._outcomes["expired"].inc()

    def as_dict(self) -> dict[str, Any]:
        """``requests``, ``errors``, ``expired``, ``processing_s``, ``average_s``, ``slowest_s``, ``started``."""
        with self._lock:
            average = self._seconds / self._calls if self._calls else 0.0
            return {
                "requests": self._calls, "errors": self._errors, "expired": self._expired,
                "processing_s": self._seconds, "average_s": average, "slowest_s": self._slowest,
                "started": self._started,
            }  # fmt: skip

    def render(self) -> str:
        """The same in Prometheus' text format, one sample per line."""
        rows = self.as_dict()
        names = {"requests": "requests_total", "errors": "errors_total", "expired": "expired_total",
                 "processing_s": "processing_seconds_total", "slowest_s": "slowest_seconds"}  # fmt: skip
        label = f'{{service="{self._service}"}}'
        return "".join(f"dynamo_tasks_service_{name}{label} {rows[key]}\n" for key, name in names.items())


class BaseServiceTask(ABC):
    """One service of a job, whatever carries its calls.

    ::

        made ─▶ start_running() ─▶ running ─▶ stop() ─▶ stopped ─▶ cleanup()

    ``stop`` finishes the calls that wait, ``terminate`` refuses them; both and ``cleanup`` may be called again. Threads
    that call these take turns: what ends a service waits for its ``setup``.

    Args:
        factory: Makes the service's instance.
        ctx: Its context, with the descriptor of its request queue.

    Attributes:
        service: The instance.
        methods: Names of what can be called.
        is_running: Whether it takes calls.
        is_ending: Whether it is told to end; a start that waits for something gives up.
    """

    kind: ClassVar[str]

    def __init__(self, factory: ServiceFactory, ctx: ServiceContext):
        self.name = factory.name
        self.ctx = ctx
        self._factory = factory
        self.service = self.make_service()
        self.statistics = CallStatistics(factory.name)
        self.methods = method_names(factory.service_class)
        self.is_running = self.is_ending = False
        self._closed = False
        # A request that is cancelled while the service starts in a thread ends it in another one.
        self._changing = threading.RLock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}{' running' if self.is_running else ''}>"

    def make_service(self) -> Any:
        """Make the instance."""
        return self._factory.create_service(self.ctx)

    # -- life ---------------------------------------------------------------------------------------

    def start_running(self) -> None:
        """Run the service's ``setup`` and take calls; a second call does nothing.

        Raises:
            ServiceCallError: it has ended.
        """
        with self._changing:
            if self._closed:
                raise ServiceCallError(f"service {self.name!r} has ended")
            if not self.is_running:
                self._run_hook("setup")
                self._start()
                self.is_running = True

    def stop(self) -> None:
        """Answer what waits, then take no more calls."""
        self._end(drain=True)

    def terminate(self) -> None:
        """Take no more calls; those that wait fail. What runs is waited for: a thread cannot be ended."""
        self._end(drain=False)

    def _end(self, *, drain: bool) -> None:
        with self._changing:
            if self.is_running:
                self.is_running = False
                self._stop(drain=drain)

    def cleanup(self) -> None:
        """Stop, run the service's ``close``, forget its proxies."""
        self.is_ending = True
        with self._changing:
            self.stop()
            if self._closed:
                return
            self._closed = True
            try:
                self._run_hook("close")
            except Exception as exc:  # noqa: BLE001 - the user's: it must not keep the rest of the job from ending
                event("job.hook_failed", job=self.ctx.job_id, name=self.name, error=exc)
            self.ctx.proxy.reset()

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _stop(self, *, drain: bool) -> None: ...

    def __enter__(self) -> Self:
        self.start_running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cleanup()

    def _run_hook(self, name: str) -> None:
        hook = getattr(self.service, name, None)
        if callable(hook):
            hook()

    # -- calls --------------------------------------------------------------------------------------

    def call_method(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a public method of the service.

        Raises:
            UnknownMethodError: it has none of that name; lists those that it has.
            Exception: what the method raises.
        """
        if method not in self.methods:
            refuse_method(self.name, method, self.methods)
        return getattr(self.service, method)(*args, **kwargs)

    # -- numbers ------------------------------------------------------------------------------------

    def get_statistics(self) -> dict[str, Any]:
        """``service``, ``kind``, ``running``, ``queued``, and what :class:`CallStatistics` counts."""
        return {
            "service": self.name, "kind": self.kind, "running": self.is_running, "queued": self.queued,
            "parallelism": self.ctx.parallelism, **self.statistics.as_dict(),
        }  # fmt: skip

    def export_metrics(self) -> str:
        """Statistics of the calls in Prometheus' text format."""
        return self.statistics.render()

    @property
    def queued(self) -> int:
        """Calls that wait."""
        return 0
