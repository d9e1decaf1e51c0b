"""The common base of endpoints and HTTP methods: a declared method of the service class."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial, partialmethod, update_wrapper
from typing import Any, Literal, Self, TypeAlias, TypeVar

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.sdk.endpoints.payloads import ANYTHING, make_validator

__all__ = ["Declared", "Kind", "collect"]

Kind: TypeAlias = Literal["async_gen", "coroutine", "generator", "function"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _kind(func: Callable[..., Any]) -> Kind:
    if inspect.isasyncgenfunction(func):
        return "async_gen"
    if inspect.iscoroutinefunction(func):
        return "coroutine"
    return "generator" if inspect.isgeneratorfunction(func) else "function"


def _know_locals(func: Any) -> None:
    """Evaluate quoted annotations of a class that stands in a function: nobody else knows the names of that."""
    if "<locals>" not in func.__qualname__:
        return
    frame, names = sys._getframe(), dict[str, Any]()
    while frame.f_back is not None and frame.f_globals is not func.__globals__:
        frame = frame.f_back
    while frame.f_back is not None and frame.f_globals is func.__globals__:
        names = {**frame.f_locals, **names}
        frame = frame.f_back
    for name, text in func.__annotations__.items():
        if isinstance(text, str):
            with suppress(NameError, AttributeError, TypeError, SyntaxError):
                func.__annotations__[name] = eval(text, func.__globals__, names)


class Declared:
    """A declared method; a descriptor: on an instance it is the bound method itself.

    Attributes:
        func: The function as written.
        attribute: Its name in the class.
        name: Its public name.
        kind: ``async_gen``, ``coroutine``, ``generator`` or ``function``.
    """

    def __init__(self, func: Callable[..., Any], name: str | None = None) -> None:
        written: Any = func.__func__ if isinstance(func, staticmethod | classmethod) else func
        if not inspect.isfunction(written):
            raise ConfigError(f"{type(self).__name__} decorates a method of a service class, not {func!r}")
        _know_locals(written)
        self._method: Any = func
        self.func = func = written
        self.name: str = func.__name__ if name is None else name
        self.attribute: str = func.__name__
        self.kind: Kind = _kind(func)
        update_wrapper(self, func)

    def __set_name__(self, owner: type, attribute: str) -> None:
        self.attribute = attribute

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        return self if instance is None else self._method.__get__(instance, owner)

    def under(self, wrapper: type[staticmethod[..., Any]] | type[classmethod[Any, ..., Any]]) -> Self:
        """The same, as a static or class method: what ``@staticmethod`` over the declaration means."""
        made = copy.copy(self)
        made._method = wrapper(self.func)
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function as written, ``self`` first."""
        return self.func(*args, **kwargs)

    def __str__(self) -> str:
        return self.func.__qualname__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.func.__qualname__}>"

    @property
    def is_stream(self) -> bool:
        """``True`` if it yields values."""
        return self.kind in ("async_gen", "generator")

    @cached_property
    def argument(self) -> inspect.Parameter | None:
        """The first parameter after ``self``, which takes the request, or ``*args``; ``None`` if there is none."""
        return next(iter(self._parameters), None)

    @property
    def needed_beside(self) -> str | None:
        """Name of another parameter that cannot be left out, if there is one."""
        needed = [p for p in self._parameters[1:] if p.default is p.empty]
        named = inspect.signature(self.func).parameters.values()
        needed += [p for p in named if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
        return needed[0].name if needed else None

    @cached_property
    def _parameters(self) -> list[inspect.Parameter]:
        """Those after ``self`` that are given by place; ``*args`` stands for one that may be left out."""
        every = [*inspect.signature(self.func).parameters.values()]
        own = 0 if isinstance(self._method, staticmethod) else 1
        by_place = [p for p in every if p.kind in _POSITIONAL][own:]
        rest = [p.replace(kind=p.POSITIONAL_ONLY, default=None) for p in every if p.kind is p.VAR_POSITIONAL]
        return by_place or rest

    @cached_property
    def request_type(self) -> Any:
        """Annotation of the request; ``Any`` without one.

        Raises:
            ConfigError: the annotation names something that its module does not have.
        """
        if self.argument is None or self.argument.annotation is inspect.Parameter.empty:
            return Any
        annotation = self.argument.annotation
        if not isinstance(annotation, str):
            return annotation
        try:
            # a quoted annotation, or one under `from __future__ import annotations`
            return eval(annotation, getattr(self.func, "__globals__", {}))
        except (NameError, AttributeError) as exc:
            raise ConfigError(f"{self.func.__qualname__}: annotation {annotation!r}: {exc}") from exc

    @cached_property
    def _validator(self) -> Callable[[Any], Any]:
        return make_validator(self.request_type, self.argument.name if self.argument else "request")

    def validate(self, payload: Any) -> Any:
        """Convert a request's payload to the declared type.

        Raises:
            InvalidRequestError: its ``param`` is the path of the field at fault.
        """
        return payload if self._is_default(payload) else self._validator(payload)

    def _is_default(self, payload: Any) -> bool:
        """Return whether nothing was given for an argument that has a default."""
        return (
            payload is None and self.argument is not None and self.argument.default is not self.argument.empty
        )

    def direct(self, instance: object) -> Callable[[Any], Any] | None:
        """Its method of ``instance``, if it must be given a request and takes any as it comes; else ``None``."""
        needed = self.argument is not None and self.argument.default is self.argument.empty
        if not needed or self.request_type not in ANYTHING:
            return None
        method: Callable[[Any], Any] = self._method.__get__(instance, type(instance))
        return method

    def call(self, instance: object, payload: Any) -> Any:
        """Call the method of ``instance`` with a validated request, or without one if it takes none."""
        bound = self._method.__get__(instance, type(instance))
        return bound() if self.argument is None or self._is_default(payload) else bound(payload)


D = TypeVar("D", bound=Declared)


def _inside(item: Any) -> Any:
    """The function that something stands in front of, if anything."""
    if isinstance(item, staticmethod | classmethod):
        return item.__func__
    if isinstance(item, property):
        return item.fget
    if isinstance(item, partial | partialmethod | cached_property):
        return item.func
    return getattr(item, "__dict__", {}).get("__wrapped__")


def _declared(cls: type, attribute: str, kind: type[D]) -> D | None:
    """A declared method, also below ``@staticmethod`` and ``@classmethod``.

    Raises:
        ConfigError: something else stands in front of it, which would hide it.
    """
    item = inspect.getattr_static(cls, attribute, None)
    if isinstance(item, kind):
        return item
    if isinstance(item, staticmethod | classmethod) and isinstance(item.__func__, kind):
        made = item.__func__.under(type(item))
        made.attribute = attribute
        return made
    hidden = item
    while hidden is not None and not isinstance(hidden, Declared):
        hidden = _inside(hidden)
    if isinstance(hidden, kind):
        raise ConfigError(
            f"{cls.__name__}.{attribute}: a {type(item).__name__} stands over the {kind.__name__} {hidden.name!r} and "
            "hides it; declare it last, above all other decorators"
        )
    return None


def collect(cls: type, kind: type[D]) -> dict[str, D]:
    """All declared methods of one kind by public name, over the whole MRO, bases first.

    Raises:
        ConfigError: two of them have the same name.
    """
    found: dict[str, D] = {}
    attributes = dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base))
    for attribute in attributes:
        item = _declared(cls, attribute, kind)
        if item is None:
            continue
        if item.name in found:
            other = found[item.name].attribute
            raise ConfigError(f"{cls.__name__}: {other} and {attribute} are both named {item.name!r}")
        found[item.name] = item
    return found
