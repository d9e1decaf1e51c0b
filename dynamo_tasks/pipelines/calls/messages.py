"""Messages between a caller and a service: the request and its response."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from dynamo_tasks.errors import EndpointError

__all__ = [
    "OUTLIVES",
    "ReplyTo",
    "ServiceRequest",
    "ServiceResponse",
    "as_exception",
    "describe_error",
    "guarded",
]

T = TypeVar("T")
OUTLIVES = 1.0
"""Seconds that a call may outlive its caller, who reports first that it took too long."""


class ReplyTo(Protocol):
    """The destination of a response."""

    def put(self, item: Any) -> None:
        """Take a response; never blocks."""


@dataclass(slots=True)
class ServiceRequest:
    """One call of a method of a service.

    Attributes:
        request_id: Matches the response; unique within its caller.
        service_name: Which service.
        method_name: Which of its methods.
        args: Positional arguments.
        kwargs: Keyword arguments.
        deadline: When nobody waits for the response any more, on this process's monotonic clock: what crosses to
            another one is :attr:`left`.
        response_queue: Where the response goes.
        attempt: 1 for the first try, counted up by retries.
    """

    request_id: int
    service_name: str
    method_name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    deadline: float
    response_queue: ReplyTo
    attempt: int = 1

    @property
    def left(self) -> float:
        """Seconds for which its caller still waits."""
        return self.deadline - time.monotonic()

    @property
    def expired(self) -> bool:
        """``True`` once its caller has given up."""
        return self.left < 0


@dataclass(slots=True)
class ServiceResponse:
    """The answer to a call.

    Attributes:
        success: Whether the method returned.
        result: What it returned.
        error: ``TypeName: text`` of what it raised.
        execution_time: Seconds that the method ran.
        request_id: The request's.
        exception: What it raised, where it could be carried; becomes the cause of the caller's error.
        error_types: Names of its class and of all bases, for ``retry_on`` across processes.
    """

    success: bool
    result: Any
    error: str | None
    execution_time: float
    request_id: int
    exception: BaseException | None = None
    error_types: tuple[str, ...] = ()

    @classmethod
    def failure(cls, request_id: int, exc: BaseException, execution_time: float = 0.0) -> ServiceResponse:
        """The answer to a call that raised."""
        types = tuple(one.__name__ for one in type(exc).__mro__)
        return cls(False, None, describe_error(exc), execution_time, request_id, exc, types)


def describe_error(exc: BaseException) -> str:
    """``TypeName: text``, or the name alone; what another process raised says so itself."""
    if isinstance(exc, EndpointError):
        return exc.message
    text = str(exc).encode(errors="backslashreplace").decode()  # what is no text cannot travel
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def as_exception(exc: BaseException) -> Exception:
    """An error of the user's code that ends no more than what it was raised for: ``sys.exit()`` is one, too."""
    if isinstance(exc, Exception):
        return exc
    made = EndpointError(describe_error(exc))
    made.__cause__ = exc
    return made


def guarded(function: Callable[..., T], *args: Any) -> T:
    """Run the user's code; what it raises comes as an ``Exception``."""
    try:
        return function(*args)
    except Exception:
        raise
    except BaseException as exc:
        raise as_exception(exc) from exc
