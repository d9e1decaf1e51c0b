"""Calls of an environment's services from plain code, outside of its pipeline."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dynamo_tasks.pipelines.calls.context import BaseRuntimeContext
from dynamo_tasks.pipelines.calls.proxy import Services

if TYPE_CHECKING:
    from dynamo_tasks.pipelines.environment import BaseEnvironment

__all__ = ["Connection", "connect"]


class Connection:
    """The services of an environment, for a script; use it as a context manager, or close it.

    Args:
        context: Makes the calls.
        close: Releases what the connection holds.
    """

    def __init__(self, context: BaseRuntimeContext, close: Callable[[], None]):
        self._context = context
        self._close = close

    def call_service(self, name: str, *args: Any, **options: Any) -> Any:
        """See :meth:`dynamo_tasks.pipelines.calls.context.Calls.call_service`."""
        return self._context.call_service(name, *args, **options)

    def call_service_async(self, name: str, *args: Any, **options: Any) -> Future[Any]:
        """See :meth:`dynamo_tasks.pipelines.calls.context.Calls.call_service_async`."""
        return self._context.call_service_async(name, *args, **options)

    @property
    def services(self) -> Services:
        """Services as attributes: ``connection.services.profile.lookup(x)``."""
        return self._context.services

    def close(self) -> None:
        """Make no more calls; a second call does nothing."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(environment: BaseEnvironment) -> Connection:
    """Call the services of an environment: those of its running job, else such as are started for the connection.

    Example:
        >>> from dynamo_tasks.pipelines import LocalEnvironment
        >>> env = LocalEnvironment("demo")
        >>> @env.register_service("upper")
        ... class Upper:
        ...     def process(self, text):
        ...         return text.upper()
        >>> with connect(env) as demo:
        ...     demo.call_service("upper", "hi"), demo.services.upper("you")
        ('HI', 'YOU')
    """
    return environment.connect()
