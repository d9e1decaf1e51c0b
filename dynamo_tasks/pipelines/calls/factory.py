"""Factories for objects of the user's classes: the context is there before ``__init__`` runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.pipelines.calls.context import BaseRuntimeContext, Calls, ServiceContext
from dynamo_tasks.protocol.names import EndpointId, check_component

__all__ = ["BaseService", "ServiceEndpoint", "ServiceFactory", "make_instance"]


class BaseService(Calls):
    """An optional base class of services, for types and completion.

    ``setup()`` runs before the first call, ``close()`` after the last one. ``parallelism`` is how many calls may
    run at once: one by default, so that a service needs no locks.
    """

    parallelism: int = 1

    def setup(self) -> None:
        """Runs once, before the first call."""

    def close(self) -> None:
        """Runs once, after the last call."""


def make_instance(
    cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any], ctx: BaseRuntimeContext
) -> Any:
    """Make an object whose ``ctx`` is there before ``__init__``.

    Raises:
        ConfigError: the class has ``__slots__`` without a place for it.
    """
    new: Any = cls.__new__
    instance: Any = new(cls) if new is object.__new__ else new(cls, *args, **kwargs)
    try:
        # not the class's own way to set: it may be frozen, or want its __init__ first
        object.__setattr__(instance, "ctx", ctx)
        if not isinstance(instance, Calls):
            for name in ("call_service", "call_service_async", "services"):
                if not hasattr(cls, name):
                    object.__setattr__(instance, name, getattr(ctx, name))
    except AttributeError as exc:
        raise ConfigError(f"{cls.__qualname__} has __slots__ without a place for its context: {exc}") from exc
    instance.__init__(*args, **kwargs)
    return instance


@dataclass(frozen=True)
class ServiceEndpoint:
    """A service that other workers serve already.

    Attributes:
        name: What callers name it by.
        endpoint: Its address.
        streams: Whether it yields values; else it returns one.
    """

    name: str
    endpoint: EndpointId
    streams: bool = True

    @classmethod
    def of(cls, name: str, target: Any) -> ServiceEndpoint:
        """Read an address (it streams), or an endpoint of a service class (it is known whether it does).

        Raises:
            InvalidNameError: a malformed address.
        """
        if isinstance(target, str | EndpointId):
            return cls(name, EndpointId.parse(str(target)))
        return cls(name, target.id, target.is_stream)


class ServiceFactory:
    """Makes the instances of one registered service.

    Args:
        name: Of the service; ``[A-Za-z0-9_-]+``.
        service_class: Any class with a method ``process``, or others that callers name.
        args: Positional arguments of its ``__init__``.
        kwargs: Keyword arguments of its ``__init__``.
        parallelism: How many calls may run at once; the class's attribute of that name, else 1, by default.

    Raises:
        ConfigError: no class, or a parallelism below 1.
        InvalidNameError: an empty name, or one with a character that is not allowed.
    """

    def __init__(
        self,
        name: str,
        service_class: type,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        parallelism: int | None = None,
    ):
        self.name = check_component(name)
        if not isinstance(service_class, type):
            raise ConfigError(f"service {name!r} must be a class, not {service_class!r}")
        self.service_class = service_class
        self.args = tuple(args)
        self.kwargs = dict(kwargs or {})
        wanted = parallelism if parallelism is not None else getattr(service_class, "parallelism", 1)
        if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
            raise ConfigError(f"service {name!r}: parallelism must be an integer from 1 on, not {wanted!r}")
        self.parallelism = wanted

    def create_service(self, ctx: ServiceContext) -> Any:
        """Make an instance with its context."""
        return make_instance(self.service_class, self.args, self.kwargs, ctx)

    def __repr__(self) -> str:
        return f"<ServiceFactory {self.name}: {self.service_class.__qualname__}>"
