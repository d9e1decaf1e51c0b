"""Endpoints as Celery tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import cached_property
from typing import Any, ClassVar

import msgspec
from celery import Task
from celery.backends.base import DisabledBackend
from celery.exceptions import Ignore, Reject, Retry, TimeLimitExceeded
from celery.utils import uuid

from dynamo_tasks.errors import DeadlineExceededError, InvalidRequestError, RequestError
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.options import LAST_PRIORITY, RequestOptions
from dynamo_tasks.queue.broker.backend import ResultBackend
from dynamo_tasks.queue.broker.envelope import (
    HEADER,
    INBOX,
    CallHeader,
    check_call,
    persisted,
    short_repr,
    submit_span,
)
from dynamo_tasks.queue.broker.transport import submitted_as
from dynamo_tasks.queue.client.direct import publish
from dynamo_tasks.queue.client.eager import EagerStreamResult, as_sent, eager_values, run_eagerly, run_handler
from dynamo_tasks.queue.client.elsewhere import warn_if_elsewhere
from dynamo_tasks.queue.client.result import StreamResult
from dynamo_tasks.queue.execution.attempt import Execution
from dynamo_tasks.queue.execution.call import CallInfo
from dynamo_tasks.queue.execution.outcome import Dropped, EndedRevoked, Reassigned, Revoked
from dynamo_tasks.queue.greenlets import await_, may_await
from dynamo_tasks.queue.worker.foreign import HOOKS, LINKS, SIGNALS, has_loader_hooks
from dynamo_tasks.queue.worker.pool import current_job
from dynamo_tasks.sdk.context import Context, RetryRequested, current_context
from dynamo_tasks.sdk.endpoints.handler import payload_of, positional
from dynamo_tasks.sdk.endpoints.payloads import plain_request

__all__ = ["EndpointTask", "make_task"]

_CELERYS = {"priority", "not_before", "expires", "ignore_result"}
"""Options that Celery has as well: the message says them, and the transport reads them there."""
_OURS = tuple(name for name in RequestOptions.__struct_fields__ if name not in _CELERYS)
_releasing: ContextVar[tuple[str, int, int] | None] = ContextVar("dynamo_releasing", default=None)


class EndpointTask(Task):  # type: ignore[misc]
    """A task whose body is an endpoint of the service that the worker hosts.

    ``apply_async`` takes, besides Celery's own options, those of
    :class:`~dynamo_tasks.protocol.options.RequestOptions` that Celery does not have. ``deadline`` is in seconds from
    now; tenant, weight and ``preemptible`` are by default those of the calling endpoint's request, ``max_queue`` is the
    component's. A preemptible call has priority 9 unless one is named.
    """

    abstract = True
    Request = "dynamo_tasks.queue.worker.request:EndpointRequest"
    runs_on_loop = True
    acks_late = True
    serializer = "json"  # the ledger keeps the message, and nothing of it is ever unpickled
    preemptible = False  # of its calls, unless one says otherwise
    throws = (RequestError,)  # the caller's mistake: one line in the log, no traceback
    autoretry_for = ()  # of an application's class of tasks: the endpoint's own are the ledger's business
    resultrepr_maxsize = 64  # Celery walks through as many characters of each result, item by item
    endpoint: EndpointId
    declaration: tuple[Any, ...] = ()
    """The endpoint's declaration, where this process has one; boxed, since it is a descriptor."""
    _given: ClassVar[dict[str, Any]] = {}
    """Celery's options of its declaration."""

    @property
    def backend(self) -> Any:
        """The backend of its results; none while it runs eagerly without ``task_store_eager_result``."""
        if eager_values.get() is not None and not self.app.conf.task_store_eager_result:
            return DisabledBackend(app=self.app)
        return self.app.endpoint_backend

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the endpoint; called by Celery's tracer in a greenlet of the worker."""
        if eager_values.get() is not None:
            return self._run_here(self._payload(args, kwargs))
        if not may_await():
            return self._called(args, kwargs)
        request = self.request_stack.top
        worker_context = self.app.worker_context
        if worker_context is None:
            raise RuntimeError("this process is no dynamo-tasks worker")
        job = current_job.get()
        execution = Execution(
            worker_context,
            worker_context.handler(self.name),
            CallInfo(request, self),
            self._payload(args, kwargs),
        )
        if job is not None:
            job.attach(execution)
        return self._settle(execution, request)

    def _called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the endpoint for code that calls its task as a function: here, without queue and stream.

        In a worker that hosts it, as ``map``, ``starmap`` and ``chunks`` do, it is the live service that is asked.
        """
        if not self.app.serves(self.name):
            return self.apply(args, kwargs).get(disable_sync_subtasks=False)
        worker_context, payload = self.app.worker_context, self._payload(args, kwargs)
        context = Context(uuid(), self.name)
        try:
            return worker_context.aside(
                run_handler(worker_context.handler(self.name), self._declared, context, payload, [])
            )
        except RetryRequested as wanted:
            raise (wanted.cause or wanted) from None

    @property
    def _declared(self) -> Any:
        return self.declaration[0] if self.declaration else None

    def _payload(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return payload_of(self.name, self._declared, args, kwargs)

    def leaves_alone(self, hook: str) -> bool:
        """Return whether a hook of tasks is Celery's own, which does nothing."""
        return getattr(getattr(self, hook), "__func__", None) is getattr(Task, hook)

    @cached_property
    def has_own_hooks(self) -> bool:
        """``True`` if Celery calls code of the application's own around its body."""
        return not all(map(self.leaves_alone, HOOKS)) or has_loader_hooks(self.app.loader)

    def has_foreign_code(self, embed: Mapping[str, Any] | None = None) -> bool:
        """Return whether there is code around a call that is neither Celery's nor ours, so that it runs in a thread.

        See :mod:`dynamo_tasks.queue.worker.foreign`.

        Args:
            embed: Its links, as the message has them.
        """
        if [one for one in SIGNALS if one.receivers] or self.has_own_hooks:
            return True
        if embed and any(embed.get(name) for name in LINKS):
            return True
        backend = self.backend
        return not (
            backend.writes_on_loop if isinstance(backend, ResultBackend) else type(backend) is DisabledBackend
        )

    @cached_property
    def is_sent_plainly(self) -> bool:
        """``True`` if no class of the application's own overrides ``apply_async``."""
        between = [kind for kind in type(self).__mro__ if kind not in (EndpointTask, Task)]
        return not any("apply_async" in vars(kind) for kind in between)

    def _run_here(self, payload: Any) -> Any:
        request = self.request_stack.top
        context = Context(request.id, self.name, retries=request.retries or 0, headers=request.headers)
        try:
            return run_eagerly(self.app.eager_handler, self.declaration, context, payload)
        except RetryRequested as wanted:
            raise self.retry(
                exc=wanted.cause, countdown=wanted.countdown, max_retries=wanted.max_retries
            ) from None

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> EagerStreamResult:
        """Run the endpoint in this process, as Celery's ``Task.apply``; the result iterates over its values."""
        values: list[Any] = []
        token = eager_values.set(values)
        try:
            done = super().apply(args, kwargs, **options)
        finally:
            eager_values.reset(token)
        return done if isinstance(done, EagerStreamResult) else EagerStreamResult(done, values)

    def _settle(self, execution: Execution, request: Any) -> Any:
        """Hand the outcome of an execution to Celery's tracer."""
        try:
            return await_(execution.run())
        except (Dropped, Reassigned) as exc:
            raise Ignore(str(exc)) from None
        except Ignore:
            self.backend.mark_as_done(request.id, None, request, store_result=not request.ignore_result)
            raise
        except Revoked as exc:
            self.backend.mark_as_revoked(
                request.id, str(exc), request=request, store_result=not request.ignore_result
            )
            raise EndedRevoked(str(exc), expired=exc.expired) from None
        except RetryRequested as exc:
            self._retry(exc, execution, request)
        except DeadlineExceededError:
            job = current_job.get()
            if execution.timed_out and job is not None:
                raise TimeLimitExceeded(job.time_limit) from None
            raise

    def _retry(self, wanted: RetryRequested, execution: Execution, request: Any) -> None:
        attempt, job = execution.attempt, current_job.get()
        if job is not None:
            job.passes_on()
        # Celery publishes the retry further down: by this it releases our attempt, and is no new request.
        token = _releasing.set(
            (f"{attempt.lease:x}", attempt.epoch, execution.context.lane) if attempt else None
        )
        try:
            self.retry(exc=wanted.cause, countdown=wanted.countdown, max_retries=wanted.max_retries)
        except Reject as exc:
            raise Ignore(f"the retry was refused: {exc.reason}") from None
        except Retry as exc:
            event(
                "request.retried", request_id=request.id, endpoint=self.name, retries=request.retries,
                delay_s=exc.when if isinstance(exc.when, int | float) else None, error=repr(wanted.cause),
            )  # fmt: skip
            raise
        except Exception as exc:
            await_(execution.fail(exc))
            raise
        finally:
            _releasing.reset(token)

    def apply_async(
        self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any
    ) -> Any:
        """Queue a call of the endpoint; returns a :class:`StreamResult`.

        Raises:
            InvalidRequestError: the payload does not fit the endpoint's annotation, or an option is not valid.
            QueueFullError: the component's queue is at its ``traffic.max_queue``.
            DeadlineUnreachableError: the component is busy for longer than ``deadline`` or ``expires`` allows.
            IdempotencyConflictError: the key, or the ``task_id``, was used with another payload.
        """
        args, kwargs = self._checked(args, kwargs, options)
        check_call(task_id, options)
        if self.app.conf.task_always_eager:
            return self._apply_here(args, kwargs, task_id, options)
        self.app.server_url  # noqa: B018 - found, or refused in one line
        context = current_context()
        header = CallHeader(options=self._options(options, context), named=bool(task_id))
        if options.get("argsrepr") is None:
            options["argsrepr"] = short_repr(args)
        released = _releasing.get()
        if released is not None and options.get("retries"):
            header.release = released
            header.inbox = persisted(self.request.get(HEADER)).get(INBOX, "")
        trace = context.child_headers() if context is not None else {}
        headers = {**trace, **(options.pop("headers", None) or {})}
        is_new, task_id = not task_id, task_id or uuid()
        if self.declaration:
            warn_if_elsewhere(self.app, self.endpoint, self.declaration[0])
        with submit_span(task_id, self.endpoint, self.endpoint.queue, headers) as span:
            headers = span.carry(headers)
            result = self.AsyncResult(task_id)
            known = None
            if not kwargs:
                known = publish(self, args, result, options, header, headers, is_new=is_new)
            if known is not None:
                result = result if known == task_id else self.AsyncResult(known)
                result.ignored = self.ignore_result
                return result
            if header.options.priority:
                options["priority"] = header.options.priority
            if not (options.get("queue") or options.get("routing_key")):
                options["queue"] = self.app.queue_for(self.endpoint)
            options["headers"] = {**headers, HEADER: header.encoded()}
            return self._publish(args, kwargs, task_id, options)

    def _options(self, options: dict[str, Any], context: Context | None) -> RequestOptions:
        """Take the options of ours out of those of a call.

        Raises:
            InvalidRequestError: names the one that is not valid, and says what it must be.
        """
        given = {name: value for name in _OURS if (value := options.pop(name, None)) is not None}
        inherited: dict[str, Any] = {"max_queue": self._max_queue()}
        if context is not None and context.tenant:
            inherited |= {"tenant": context.tenant, "weight": context.weight}
        if self.preemptible or (context is not None and context.preemptible):
            inherited["preemptible"] = True
        try:
            chosen = msgspec.convert(inherited | given, RequestOptions, strict=False)
        except msgspec.ValidationError as exc:
            raise InvalidRequestError(f"call option: {exc}") from None
        if chosen.preemptible and self.priority is None and options.get("priority") is None:
            chosen.priority = LAST_PRIORITY
        if "deadline" in given:
            chosen.deadline += self.app.now().timestamp()
        return chosen

    def _publish(self, args: Any, kwargs: Any, task_id: str, options: dict[str, Any]) -> Any:
        """Let Celery publish the call."""
        token = submitted_as.set("")
        try:
            result = super().apply_async(args, kwargs, task_id=task_id, **options)
            known = submitted_as.get()
        finally:
            submitted_as.reset(token)
        # An idempotency key that is known stands for the request that it was first used with.
        return self.AsyncResult(known) if known and known != result.id else result

    def _apply_here(self, args: Any, kwargs: Any, task_id: str | None, options: dict[str, Any]) -> Any:
        kept = {name: value for name, value in options.items() if name not in _OURS}
        return self.apply(as_sent(args), kwargs, task_id=task_id, **kept)

    def _plain(self, args: Any) -> Any:
        if not isinstance(args, list | tuple | None):
            return args  # Celery says what is wrong with it
        return tuple(plain_request(argument, self.name) for argument in args or ())

    def signature(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        """A Celery signature; its arguments can be sent, whatever they were."""
        return super().signature(self._plain(args), *rest, **options)

    def _max_queue(self) -> int:
        """Most requests that the component's queue may hold; 0 = no limit."""
        service = self.declaration[0].service if self.declaration else None
        return int(service.settings.traffic.get("max_queue") or 0) if service is not None else 0

    def _checked(self, args: Any, kwargs: Any, options: dict[str, Any]) -> tuple[Any, Any]:
        """The arguments of a call, without keywords where the endpoint's declaration is known.

        Raises:
            InvalidRequestError: the endpoint does not take them.
        """
        declared = self._declared
        if kwargs and declared is not None:
            args, kwargs = positional(self.name, declared, args or (), kwargs), None
        args = self._plain(args)
        if declared is None:
            return args, kwargs and dict(zip(kwargs, self._plain([*kwargs.values()]), strict=True))
        if not options.get("retries") and isinstance(args, tuple):
            payload = self._payload(args, {})
            if declared.argument is not None:
                declared.validate(payload)
        return args, kwargs

    def AsyncResult(self, task_id: str, **kwargs: Any) -> StreamResult:  # noqa: N802 - Celery's name
        """A handle on a call by its id."""
        return StreamResult(
            task_id,
            self.backend,
            app=self.app,
            namespace=self.endpoint.namespace,
            parent=kwargs.get("parent"),
        )


def make_task(app: Any, endpoint: EndpointId, declared: Any = None, **options: Any) -> EndpointTask:
    """Register the task of an endpoint with an application; the same task again if it is registered."""
    name = str(endpoint)
    app.tasks  # noqa: B018 - makes what is still to be made; this one may be among it
    known: EndpointTask | None = app.endpoint_task(name)
    if known is not None:
        if declared is None or known.declaration == (declared,):
            return known
        if known._given == options:
            known.declaration = (declared,)
            return known
        del app._tasks[name]
    attributes = {
        "name": name, "endpoint": endpoint, "declaration": (declared,) if declared is not None else (),
        "abstract": False, "__module__": __name__, "_given": options, **options,
    }  # fmt: skip
    bases = (EndpointTask, app.Task) if app.has_own_task_class else (EndpointTask,)
    task = type("Task_" + endpoint.component, bases, attributes)()
    app.register_task(task)
    return task  # type: ignore[no-any-return]
