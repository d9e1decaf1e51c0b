"""``depends()``: another service as an attribute, wherever it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.sdk.endpoints.calls import LocalClient
from dynamo_tasks.sdk.resolver import Resolver, get_resolver

if TYPE_CHECKING:
    from dynamo_tasks.sdk.services.service import DynamoService

__all__ = ["DynamoDependency", "collect_dependencies", "depends"]


class DynamoDependency:
    """A declared dependency; a descriptor that gives a client on instances.

    Assigning to the attribute of an instance replaces the client, e.g. in a unit test.

    Attributes:
        service: The service depended on; ``None`` if only its address is known.
        endpoint_id: The address, if that was given.
        name: The attribute's name.
    """

    def __init__(self, target: DynamoService[Any] | type[Any] | EndpointId | str) -> None:
        """Declare it.

        Raises:
            ConfigError: neither a service nor an address.
            InvalidNameError: a malformed address.
        """
        self.service: DynamoService[Any] | None = None
        self.endpoint_id: EndpointId | None = None
        self.name = ""
        self._client: Any = None
        self._client_of: tuple[Resolver, object | None] | None = None
        if isinstance(target, EndpointId):
            self.endpoint_id = target
        elif isinstance(target, str):
            self.endpoint_id = EndpointId.parse(target)
        elif hasattr(target, "get_dynamo_endpoints") and not isinstance(target, type):
            self.service = target
        else:
            raise ConfigError(
                "depends() takes a class under @service or 'dyn://namespace.Component.endpoint', "
                f"not {target!r}"
            )

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        return self if instance is None else self.get()

    def __repr__(self) -> str:
        target = self.service.name if self.service is not None else self.endpoint_id
        return f"<DynamoDependency {self.name!r} on {target}>"

    def get(self) -> Any:
        """The client: a direct one where the service lives in this process, else one through the queue."""
        resolver = get_resolver()
        instance = resolver.local(self.service) if self.service is not None else None
        kept = self._client_of
        # an instance may appear, or be started anew, after the first look
        if kept is None or kept[0] is not resolver or kept[1] is not instance:
            self._client = self._make(resolver, instance)
            self._client_of = resolver, instance
        return self._client

    def _make(self, resolver: Resolver, instance: object | None) -> Any:
        if self.service is not None and instance is not None:
            return LocalClient(self.service, instance)
        target = self.service if self.service is not None else self.endpoint_id
        assert target is not None
        return resolver.remote(target)


def collect_dependencies(cls: type) -> dict[str, DynamoDependency]:
    """``depends()`` attributes by name, over the whole MRO, bases first."""
    found: dict[str, DynamoDependency] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, DynamoDependency):
                found[name] = value
            else:
                found.pop(name, None)
    return found


def depends(target: DynamoService[Any] | type[Any] | EndpointId | str) -> Any:
    """Declare a dependency on another service.

    The calling code is the same wherever the other one runs: ``self.worker.generate(request)`` can be
    iterated with ``async for`` or awaited, ``await self.worker.get_endpoint("generate")`` gives a client.
    In the same process it is a direct call, in another one it goes through the queue.

    Args:
        target: A class under ``@service``, or an address ``dyn://namespace.Component.endpoint`` of a
            service whose code is elsewhere.

    Raises:
        ConfigError: neither a service nor an address.
        InvalidNameError: a malformed address.

    Example:
        ``worker = depends(Worker)`` in the body of a service class.
    """
    return DynamoDependency(target)
