"""``@dynamo_endpoint``: a method that can be called through the queue."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args, overload

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.names import EndpointId, check_endpoint
from dynamo_tasks.sdk.endpoints.declared import Declared
from dynamo_tasks.sdk.resolver import TaskLike, get_resolver

if TYPE_CHECKING:
    from dynamo_tasks.sdk.services.service import DynamoService

__all__ = ["CELERY_OPTIONS", "DynamoEndpoint", "Policy", "dynamo_endpoint", "endpoint"]

Policy: TypeAlias = Literal["continue", "replay", "restart", "fail"]
"""Ways to go on with a request whose owner was lost: see "Continue, don't repeat" in the design."""

CELERY_OPTIONS = frozenset(
    {
        "acks_late",
        "acks_on_failure_or_timeout",
        "autoretry_for",
        "default_retry_delay",
        "dont_autoretry_for",
        "expires",
        "ignore_result",
        "max_retries",
        "priority",
        "rate_limit",
        "reject_on_worker_lost",
        "retry_backoff",
        "retry_backoff_max",
        "retry_jitter",
        "retry_kwargs",
        "send_events",
        "soft_time_limit",
        "store_errors_even_if_ignored",
        "throws",
        "time_limit",
        "track_started",
        "trail",
    }
)
"""Options of a Celery task that an endpoint may set."""
_OPTIONS = frozenset({"preemptible"})
"""Options of requests that an endpoint may set for its calls."""


class DynamoEndpoint(Declared):
    """An endpoint of a service: on the class a declaration with Celery's calls, on an instance the method.

    Attributes:
        aggregate: Class with ``add(value)`` and ``result()`` that makes one value of what a generator
            yielded; ``None`` = the list of values.
        policy: ``continue``, ``replay``, ``restart`` or ``fail``.
        options: Celery task options.
        health_check_payload: A request that shows whether it works, sent when it has long been idle.
        can_continue: Function of instance and request that says whether this one can be left after any of its values,
            and gone on with elsewhere; ``None`` = all can, with policy ``continue``.
        service: The service it belongs to, once its class is decorated.

    Example:
        >>> result = Worker.generate.delay({"prompt": "hi"})    # doctest: +SKIP
    """

    def __init__(
        self,
        func: Callable[..., Any],
        name: str | None = None,
        *,
        aggregate: type | None = None,
        policy: str = "restart",
        options: Mapping[str, Any] | None = None,
        health_check_payload: Any = None,
        can_continue: Callable[[Any, Any], bool] | None = None,
    ) -> None:
        """Declare ``func``.

        Raises:
            InvalidNameError: the name has a character that is not allowed.
            ConfigError: unknown policy or option, or an aggregate without ``add`` and ``result``.
        """
        super().__init__(func, name)
        check_endpoint(self.name)
        self.policy = cast(Policy, _check_policy(policy))
        self.aggregate = _check_aggregate(aggregate)
        self.options = _check_options(options or {})
        self.health_check_payload = health_check_payload
        self.can_continue = can_continue
        self.service: DynamoService[Any] | None = None

    def of(self, service: DynamoService[Any]) -> DynamoEndpoint:
        """The same endpoint as one of ``service``; an inherited one belongs to several.

        Raises:
            ConfigError: it asks for more than the request.
        """
        if (needed := self.needed_beside) is not None:
            raise ConfigError(
                f"{self.func.__qualname__}: an endpoint takes one argument, the request; {needed!r} needs a default"
            )
        bound = copy.copy(self)
        bound.service = service
        return bound

    def __str__(self) -> str:
        return super().__str__() if self.service is None else str(self.id)

    @property
    def id(self) -> EndpointId:
        """Its address, with the settings that were applied to the service.

        Raises:
            ConfigError: its class is not under ``@service``.
        """
        if self.service is None:
            raise ConfigError(f"{self.func.__qualname__}: its class has no @service")
        return self.service.endpoint_id(self.name)

    @property
    def task(self) -> TaskLike:
        """The Celery task behind it."""
        return get_resolver().task(self.id, self)

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Queue a call, as Celery's ``Task.delay``; the result iterates over the stream."""
        return self.task.delay(*args, **kwargs)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Queue a call with options, as Celery's ``Task.apply_async``."""
        return self.task.apply_async(args, kwargs, **options)

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Queue a call once Django's transaction is committed, as Celery's tasks of a Django project."""
        self.task.delay_on_commit(*args, **kwargs)

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """The same with options."""
        self.task.apply_async_on_commit(*args, **kwargs)

    def s(self, *args: Any, **kwargs: Any) -> Any:
        """A Celery signature, for ``chain``, ``group`` and ``chord``."""
        return self.task.s(*args, **kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Any:
        """An immutable signature: it ignores the result of the task before it."""
        return self.task.si(*args, **kwargs)

    def signature(self, *args: Any, **kwargs: Any) -> Any:
        """A Celery signature with options, as Celery's ``Task.signature``."""
        return self.task.signature(*args, **kwargs)

    subtask = signature

    def map(self, it: Iterable[Any]) -> Any:
        """A signature of one task that calls it for one item after the other: ``.delay().get()`` is the list."""
        return self.task.map(it)

    def starmap(self, it: Iterable[Any]) -> Any:
        """The same for items that are lists of arguments."""
        return self.task.starmap(it)

    def chunks(self, it: Iterable[Any], n: int) -> Any:
        """A signature of tasks that do as :meth:`starmap`, each for ``n`` items."""
        return self.task.chunks(it, n)

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run it in this process, as Celery's ``Task.apply``."""
        return self.task.apply(args, kwargs, **options)

    def AsyncResult(self, task_id: str, **kwargs: Any) -> Any:  # noqa: N802 - Celery's name
        """A handle on a call by its id."""
        return self.task.AsyncResult(task_id, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function as written, with an instance first; without one, run it here as Celery's task does."""
        if self.service is None or self._is_as_written(args, kwargs):
            return self.func(*args, **kwargs)
        return self.task(*args, **kwargs)

    def _is_as_written(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        inner = self.service.inner if self.service is not None else object
        return bool(args) and (isinstance(args[0], inner) or len(args) + len(kwargs) > 1)


def _check_policy(policy: str) -> str:
    known = get_args(Policy)
    if policy not in known:
        raise ConfigError(f"endpoint policy {policy!r}{suggest(str(policy), known, label='allowed')}")
    return policy


def _check_aggregate(aggregate: Any) -> type | None:
    if aggregate is None:
        return None
    if not (isinstance(aggregate, type) and hasattr(aggregate, "add") and hasattr(aggregate, "result")):
        raise ConfigError(
            f"endpoint aggregate must be a class with add(value) and result(), not {aggregate!r}"
        )
    return aggregate


def _check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    for name in options:
        if name not in CELERY_OPTIONS and name not in _OPTIONS:
            known = {
                *CELERY_OPTIONS,
                *_OPTIONS,
                "name",
                "aggregate",
                "policy",
                "health_check_payload",
                "can_continue",
            }
            raise ConfigError(f"endpoint option {name!r}{suggest(name, known, label='allowed')}")
    return dict(options)


@overload
def dynamo_endpoint(name: Callable[..., Any], /) -> DynamoEndpoint: ...
@overload
def dynamo_endpoint(
    name: str | None = None,
    *,
    aggregate: type | None = None,
    policy: str = "restart",
    health_check_payload: Any = None,
    can_continue: Callable[[Any, Any], bool] | None = None,
    **celery_options: Any,
) -> Callable[[Callable[..., Any]], DynamoEndpoint]: ...
def dynamo_endpoint(
    name: str | Callable[..., Any] | None = None,
    *,
    aggregate: type | None = None,
    policy: str = "restart",
    health_check_payload: Any = None,
    can_continue: Callable[[Any, Any], bool] | None = None,
    **celery_options: Any,
) -> DynamoEndpoint | Callable[[Callable[..., Any]], DynamoEndpoint]:
    """Make a method an endpoint: an async generator, coroutine, plain function or plain generator.

    Its first argument after ``self`` is the request; an annotation there is what it is validated against.

    Args:
        name: The endpoint's name, e.g. ``chat/completions``; the function's by default.
        aggregate: Class with ``add(value)`` and ``result()``: what ``.get()`` returns for a generator.
        policy: What happens when the owner of a request is lost: ``continue``, ``replay``, ``restart``
            (only while nothing was streamed) or ``fail``.
        health_check_payload: A request that is run now and then while no other comes; where it fails, the
            instance takes no work until it succeeds.
        can_continue: Function of ``self`` and the request: whether this one can be left after any of its values, as
            policy ``continue`` says. Where not, its worker never releases it for others.
        **celery_options: Celery task options such as ``time_limit`` (seconds) or ``max_retries``; ``preemptible=True``
            makes its calls such that use spare capacity.

    Raises:
        InvalidNameError: the name has a character that is not allowed.
        ConfigError: unknown policy or option.

    Example:
        >>> class Worker:
        ...     @dynamo_endpoint()
        ...     async def generate(self, request: dict):
        ...         yield {"text": "hi"}
        >>> Worker.generate.kind
        'async_gen'
    """
    if callable(name):
        return DynamoEndpoint(name)

    def decorate(func: Callable[..., Any]) -> DynamoEndpoint:
        return DynamoEndpoint(
            func,
            name,
            aggregate=aggregate,
            policy=policy,
            options=celery_options,
            health_check_payload=health_check_payload,
            can_continue=can_continue,
        )

    return decorate


endpoint = dynamo_endpoint
