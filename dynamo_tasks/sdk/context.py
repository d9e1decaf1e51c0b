"""A request as its endpoint sees it, and as a caller holds it: identity, cancellation, deadline, trace."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NoReturn

from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.trace import TRACE_HEADERS, TraceParent

__all__ = ["Context", "ForwardRequested", "RetryRequested", "current_context"]


def _always() -> bool:
    return True


class RetryRequested(Exception):  # noqa: N818 - a request, not an error
    """The endpoint asks Celery to run it again later.

    Attributes:
        cause: The error that made it ask, if any.
        countdown: Seconds to wait; ``None`` = the task's ``default_retry_delay``.
        max_retries: Overrides the task's own limit.
    """

    def __init__(
        self,
        cause: BaseException | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
    ):
        super().__init__(f"retry requested: {cause}" if cause else "retry requested")
        self.cause = cause
        self.countdown = countdown
        self.max_retries = max_retries


class ForwardRequested(Exception):  # noqa: N818 - a request, not an error
    """The endpoint hands the request on to an instance of another endpoint.

    Attributes:
        endpoint: Who shall serve it; of the same namespace.
        instance_id: The lease of the chosen instance.
        late: It waits instead for one that has room.
        marks: Of its prompt, where it may have to wait.
    """

    def __init__(self, endpoint: EndpointId, instance_id: int, *, late: bool = False, marks: bytes = b""):
        super().__init__(f"forwarded to {endpoint}, instance {instance_id:x}")
        self.endpoint = endpoint
        self.instance_id = instance_id
        self.late = late
        self.marks = marks


class Context:
    """A request as its endpoint sees it; or a caller's handle on the calls that it makes with it.

    Calls made inside an endpoint, or with ``client.generate(request, context=…)``, belong to it: they end with it,
    inherit its deadline and carry on its trace.

    Attributes:
        id: Request id (= Celery task id).
        endpoint: Its address as text.
        attempt: 1 for the first claim.
        retries: Celery's retry number.
        deadline: Unix time by which it must have ended; 0 = none.
        tenant: Whose request it is; calls that it makes are the same tenant's.
        weight: The tenant's share of a component that is not enough for all.
        preemptible: It uses spare capacity, and so do calls that it makes.
        headers: Headers of the message: ``traceparent``, ``tracestate``, ``baggage``, where they came with it.
        claim: Lease and epoch of the attempt, for scripts of the store that check who is the owner.
        lane: Number of the lane that the request lives on, and calls that it makes; 0 = none in particular.
        written: Output of earlier attempts, after which an endpoint with policy ``continue`` goes on.

    Example:
        >>> context = Context()
        >>> context.stop_generating()
        >>> context.is_stopped, context.is_killed
        (True, False)
    """

    on_call: Callable[[], None] = staticmethod(lambda: None)
    """Called before each call that belongs to it."""

    def __init__(
        self,
        request_id: str | None = None,
        endpoint: str = "",
        *,
        attempt: int = 1,
        retries: int = 0,
        deadline: float = 0.0,
        headers: dict[str, Any] | None = None,
    ):
        self.id = request_id or str(uuid.uuid4())
        self.endpoint = endpoint
        self.attempt = attempt
        self.retries = retries
        self.deadline = deadline
        self.headers = headers or {}
        self.tenant = ""
        self.weight = 1.0
        self.preemptible = False
        self.written: list[Any] = []
        self.claim: tuple[int, int] = (0, 0)
        self.lane = 0
        self._stopped = asyncio.Event()
        self._killed = False
        self._calls = 0
        self._listeners: list[Callable[[], None]] = []
        self._trace: TraceParent | None = None
        self._threads: set[asyncio.Future[Any]] = set()
        self._reading: Callable[[], bool] = _always

    @property
    def is_read(self) -> bool:
        """``True`` while any client reads the stream; without one, tokens need not be yielded one by one."""
        return self._reading()

    def read_while(self, reading: Callable[[], bool] | None) -> None:
        """Set the function behind :attr:`is_read`; ``None``: it is ``True`` again."""
        self._reading = reading or _always

    @property
    def is_stopped(self) -> bool:
        """``True`` once the request was cancelled; long-running plain functions should look at it."""
        return self._stopped.is_set()

    @property
    def is_killed(self) -> bool:
        """``True`` once :meth:`kill` was called."""
        return self._killed

    def stop(self) -> None:
        """Note that the request was cancelled."""
        self._stopped.set()

    def stop_generating(self) -> None:
        """End the calls that belong to it: their streams end with what there is, without an error."""
        self._stopped.set()
        for listener in list(self._listeners):
            listener()

    def kill(self) -> None:
        """End the calls that belong to it at once: their readers get ``RequestCancelledError``."""
        self._killed = True
        self.stop_generating()

    def on_stop(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` at :meth:`stop_generating` and :meth:`kill`; returns what takes it back."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def left_behind(self, step: asyncio.Future[Any]) -> None:
        """Note a thread that runs on although the request was stopped: a thread cannot be interrupted."""
        self._threads.add(step)
        step.add_done_callback(self._threads.discard)

    @property
    def busy(self) -> bool:
        """``True`` while threads run on that were left behind."""
        return bool(self._threads)

    async def idle(self) -> None:
        """Wait until they have ended."""
        while self._threads:
            await asyncio.wait(self._threads)

    async def stopped(self) -> None:
        """Wait until the request is cancelled."""
        await self._stopped.wait()

    async def async_killed_or_stopped(self) -> bool:
        """Wait until the request is cancelled, in either way; Dynamo's name."""
        await self._stopped.wait()
        return True

    @property
    def trace(self) -> TraceParent:
        """Its span: a child of the one that came with the request, else the root of a trace of its own."""
        if self._trace is None:
            parent = TraceParent.parse(self.headers.get("traceparent"))
            self._trace = parent.child() if parent is not None else TraceParent.new()
        return self._trace

    @property
    def traceparent(self) -> str:
        """The same as a W3C header."""
        return str(self.trace)

    def traced(self, headers: dict[str, str]) -> None:
        """It has a span of its own, with these headers for its calls."""
        self.headers = {**self.headers, **headers}
        self._trace = TraceParent.parse(headers.get("traceparent"))

    def child_headers(self) -> dict[str, str]:
        """Headers for calls that belong to it."""
        kept = {name: str(self.headers[name]) for name in TRACE_HEADERS if self.headers.get(name)}
        return kept | {"traceparent": self.traceparent}

    def child_id(self) -> str:
        """Id of the next queued call that this request makes: the same when the request is run again."""
        self._calls += 1
        self.on_call()
        return str(uuid.uuid5(_as_uuid(self.id), str(self._calls)))

    def retry(
        self,
        exc: BaseException | None = None,
        *,
        countdown: float | None = None,
        max_retries: int | None = None,
    ) -> NoReturn:
        """Give up this run and ask Celery for another one.

        Raises:
            RetryRequested: always.
        """
        raise RetryRequested(exc, countdown, max_retries)

    def forward(
        self, endpoint: EndpointId, instance_id: int, *, late: bool = False, marks: bytes = b""
    ) -> NoReturn:
        """Hand the request on before anything was yielded: its id and its stream stay, and this run does not count.

        Args:
            endpoint: Who shall serve it; of the same namespace.
            instance_id: The lease of the chosen instance; if it is gone, any other one takes the request.
            late: It waits instead for an instance that has room.
            marks: Of its prompt, where it may have to wait; see :mod:`dynamo_tasks.router.late`.

        Raises:
            ForwardRequested: always.
        """
        raise ForwardRequested(endpoint, instance_id, late=late, marks=marks)


def _as_uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_OID, text)


_current: ContextVar[Context | None] = ContextVar("dynamo_context", default=None)


def current_context() -> Context | None:
    """The request that the calling endpoint serves; ``None`` outside of endpoints."""
    return _current.get()


def enter_context(context: Context | None) -> None:
    """Make ``context`` the current one for the running asyncio task (or thread)."""
    _current.set(context)
