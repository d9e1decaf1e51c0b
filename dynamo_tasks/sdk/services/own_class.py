"""The class of one service: a subclass of the class as written, so that a class can be several services.

What belongs to one service alone (its endpoints' addresses, its configured attributes) is written here, never into
the class as written, which another ``@service`` may take as well.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dynamo_tasks.config import ServiceSchema, suggest

if TYPE_CHECKING:
    from dynamo_tasks.sdk.services.service import DynamoService

__all__ = ["ActsAsClass", "import_path", "make_own_class", "owner_of"]

T = TypeVar("T")

_OWNER = "_dynamo_service"
_LIKE_WRITTEN = ("__module__", "__qualname__", "__doc__")


def make_own_class(service: DynamoService[Any], written: type, members: Mapping[str, Any]) -> Any:
    """Make the class of a service.

    Args:
        service: The service.
        written: The class that ``@service`` decorates.
        members: What differs from it.
    """
    names = {name: getattr(written, name) for name in _LIKE_WRITTEN}
    # To the user there is one class: hooks for subclasses have seen it, and may want arguments.
    quiet = type(written.__name__, (), {"__slots__": (), "__init_subclass__": classmethod(_nothing)})
    own = type(written)(
        written.__name__,
        (quiet, written),
        {**names, **members, _OWNER: service, "__reduce_ex__": _reduce_instance},
    )
    del quiet.__init_subclass__
    return own


def _nothing(cls: type) -> None:
    """Do as if there was no new class."""


def owner_of(cls: type) -> DynamoService[Any] | None:
    """The service whose own class this is; ``None`` for a class as written."""
    found: DynamoService[Any] | None = vars(cls).get(_OWNER)
    return found


class ActsAsClass(Generic[T]):
    """Lets a service stand for its class: calls, attributes, subclasses, checks of type, pickling.

    Attributes:
        inner: The class.
    """

    inner: Any
    _schema: ServiceSchema

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        """Make an instance of the class."""
        if is_dataclass(self.inner):
            kwargs = self._configured_fields(len(args)) | kwargs
        made: T = self.inner(*args, **kwargs)
        return made

    def _configured_fields(self, given: int) -> dict[str, Any]:
        """Return configured fields after the first ``given``: ``__init__`` has only defaults as written."""
        names = [field.name for field in fields(self.inner) if field.init]
        return {name: getattr(self.inner, name) for name in names[given:] if name in vars(self.inner)}

    def __getattr__(self, name: str) -> Any:
        if name == "inner" or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        if hasattr(self.inner, name):
            return getattr(self.inner, name)
        known = [word for word in dir(self.inner) if not word.startswith("_")]
        raise AttributeError(f"service {self.name} has no attribute {name!r}{suggest(name, known)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(type(self), name) or name in _fields(type(self)):
            super().__setattr__(name, value)
            return
        setattr(self.inner, name, value)
        if name in self._schema.attributes:
            # what configuration does not name stays as it was set
            self._schema = replace(self._schema, attributes={**self._schema.attributes, name: value})

    def __delattr__(self, name: str) -> None:
        if name in vars(self):
            super().__delattr__(name)
            return
        delattr(self.inner, name)
        if name in self._schema.attributes and hasattr(self.inner, name):
            default = getattr(self.inner, name)
            self._schema = replace(self._schema, attributes={**self._schema.attributes, name: default})

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.inner)})

    def __or__(self, other: Any) -> Any:
        return self.inner | other

    def __ror__(self, other: Any) -> Any:
        return other | self.inner

    def __getitem__(self, parameters: Any) -> Any:
        """``Class[int]`` of a generic class."""
        if not hasattr(self.inner, "__class_getitem__"):
            raise TypeError(f"service {self.name} is not generic")
        return GenericAlias(self.inner, parameters)

    __iter__ = None
    """It has no items, for all that it can be subscripted."""

    @property
    def __bases__(self) -> tuple[type, ...]:
        """The bases that ``issubclass(service, Class)`` looks at."""
        return (self.inner,)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (self.inner,)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self.inner)

    def __subclasscheck__(self, subclass: Any) -> bool:
        return issubclass(_class_behind(subclass), self.inner)

    def __reduce__(self) -> Any:
        path = import_path(self)
        if path is None:
            from pickle import (
                PicklingError,
            )  # not needed to declare services: keeps the import of the sdk light

            raise PicklingError(
                f"service {self.name} is pickled by its name, but no module has it as a name of its own"
            )
        return _load_named, path


def _fields(cls: type) -> frozenset[str]:
    """The names that a service's own class has for itself."""
    return frozenset(name for base in cls.__mro__ for name in vars(base).get("__annotations__", ()))


def _class_behind(item: Any) -> Any:
    """Of a service its own class; anything else as it is."""
    return item if isinstance(item, type) else getattr(item, "inner", item)


def _reduce_instance(self: Any, protocol: Any) -> Any:
    """Pickle an instance by its service's name: under the class's name a module has the service, or another class."""
    own: Any = next(cls for cls in type(self).__mro__ if owner_of(cls) is not None)
    reduced = super(own, self).__reduce_ex__(max(protocol, 2))
    if (
        type(self) is not own
        or isinstance(reduced, str)
        or getattr(reduced[0], "__name__", "") != "__newobj__"
    ):
        return reduced
    cls, *arguments = reduced[1]
    return (_remake, (owner_of(cls), *arguments), *reduced[2:])


def _remake(service: DynamoService[Any], *arguments: Any) -> Any:
    return service.inner.__new__(service.inner, *arguments)


def import_path(service: ActsAsClass[Any], first: str = "") -> tuple[str, str] | None:
    """Module and name under which a service can be imported; ``None``: no module has it.

    Args:
        service: The service.
        first: A module to be looked into before the class's own.
    """
    for module in _modules(first, service.inner.__module__):
        for name, value in list(vars(sys.modules[module]).items()):
            if value is service:
                return module, name
    return None


def _modules(*first: str) -> Iterator[str]:
    yield from (name for name in first if name in sys.modules)
    yield from (name for name, module in list(sys.modules.items()) if hasattr(module, "__dict__"))


def _load_named(module: str, name: str) -> Any:
    """The service that a module has under a name."""
    return getattr(importlib.import_module(module), name)
