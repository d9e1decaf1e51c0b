"""The way from declarations to the running system: an injected :class:`Resolver`.

The sdk knows no queue and no server. A host injects its resolver; in a plain script the first call takes the one of
:data:`dynamo_tasks.wiring.default_resolver`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.wiring import default_resolver

if TYPE_CHECKING:
    from dynamo_tasks.sdk.endpoints.endpoint import DynamoEndpoint
    from dynamo_tasks.sdk.services.service import DynamoService

__all__ = ["Resolver", "TaskLike", "get_resolver", "set_resolver"]


class TaskLike(Protocol):
    """The methods that a Celery task offers to its callers."""

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Queue a call."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Queue a call with options."""

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Queue a call once Django's transaction is committed; of Django's kind of tasks."""

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """The same with options."""

    def s(self, *args: Any, **kwargs: Any) -> Any:
        """A signature."""

    def si(self, *args: Any, **kwargs: Any) -> Any:
        """An immutable signature."""

    def signature(self, *args: Any, **kwargs: Any) -> Any:
        """A signature with options."""

    def map(self, it: Any) -> Any:
        """A signature of one task for all items."""

    def starmap(self, it: Any) -> Any:
        """The same for lists of arguments."""

    def chunks(self, it: Any, n: int) -> Any:
        """The same in several tasks."""

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run it in this process."""

    def AsyncResult(self, task_id: str, **kwargs: Any) -> Any:  # noqa: N802 - Celery's name
        """A handle on a call by its id."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it in this process, and return its value."""


@runtime_checkable
class Resolver(Protocol):
    """Finds what is behind a declaration in this process."""

    def remote(self, target: DynamoService[Any] | EndpointId) -> Any:
        """A client of a service that lives elsewhere.

        Args:
            target: A service, or the id of one of its endpoints.

        Returns:
            A proxy that behaves as :class:`~dynamo_tasks.sdk.endpoints.calls.LocalClient` does: one attribute per
            endpoint, ``await proxy.get_endpoint(name)``, and the same errors.
        """

    def task(self, endpoint: EndpointId, declared: DynamoEndpoint | None) -> TaskLike:
        """The Celery task of an endpoint.

        Args:
            endpoint: Its address.
            declared: Its declaration, where this process has one.
        """

    def local(self, service: DynamoService[Any]) -> object | None:
        """The instance of ``service`` in this process, or ``None``."""


_resolver: Resolver | None = None


def set_resolver(resolver: Resolver | None) -> None:
    """Inject the process's resolver; ``None`` takes it away."""
    global _resolver
    _resolver = resolver


def get_resolver() -> Resolver:
    """The injected resolver, else the runtime's default one."""
    global _resolver
    if _resolver is None:
        resolver: Resolver = default_resolver()
        _resolver = resolver
    return _resolver
