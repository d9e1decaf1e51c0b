"""Lifecycle hooks of a service: start, shutdown, liveness, readiness."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeAlias, TypeVar, overload

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.observe import event

__all__ = [
    "Hook",
    "async_on_start",
    "collect_hooks",
    "liveness",
    "on_shutdown",
    "probe",
    "readiness",
    "run_hooks",
]

Hook: TypeAlias = Literal["start", "shutdown", "liveness", "readiness"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__dynamo_hooks__"


def _mark(func: F, hook: Hook) -> F:
    function = _function(func)
    if not inspect.isfunction(function):
        raise ConfigError(f"a {hook} hook is a method of a service class, not {func!r}")
    function.__dict__[_MARK] = (*getattr(function, _MARK, ()), hook)
    return func


def _function(item: Any) -> Any:
    return item.__func__ if isinstance(item, staticmethod | classmethod) else item


@overload
def async_on_start(func: F, /) -> F: ...
@overload
def async_on_start() -> Callable[[F], F]: ...
def async_on_start(func: F | None = None) -> F | Callable[[F], F]:
    """Run the method before the service is registered; several run in the order of their definition.

    Coroutines and plain methods, as ``@async_on_start`` or ``@async_on_start()``. One that raises stops
    the process, with nothing registered.
    """
    return _mark(func, "start") if func is not None else lambda inner: _mark(inner, "start")


@overload
def on_shutdown(func: F, /) -> F: ...
@overload
def on_shutdown() -> Callable[[F], F]: ...
def on_shutdown(func: F | None = None) -> F | Callable[[F], F]:
    """Run the method after the last request has ended; several run in the order of their definition."""
    return _mark(func, "shutdown") if func is not None else lambda inner: _mark(inner, "shutdown")


@overload
def liveness(func: F, /) -> F: ...
@overload
def liveness() -> Callable[[F], F]: ...
def liveness(func: F | None = None) -> F | Callable[[F], F]:
    """Ask the method whether the instance is alive; ``False`` means that it must be restarted."""
    return _mark(func, "liveness") if func is not None else lambda inner: _mark(inner, "liveness")


@overload
def readiness(func: F, /) -> F: ...
@overload
def readiness() -> Callable[[F], F]: ...
def readiness(func: F | None = None) -> F | Callable[[F], F]:
    """Ask the method whether the instance can take work; ``False`` takes it out of the registry."""
    return _mark(func, "readiness") if func is not None else lambda inner: _mark(inner, "readiness")


def collect_hooks(cls: type, hook: Hook) -> list[str]:
    """Names of the methods with that hook, over the whole MRO: bases first, then order of definition.

    An override takes the place of what it overrides, and counts only if it is a hook itself.
    """
    return list(_collected(cls, hook))


@cache  # every instance is asked for its health every second
def _collected(cls: type, hook: Hook) -> tuple[str, ...]:
    names = dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base))
    found = {name: _function(inspect.getattr_static(cls, name, None)) for name in names}
    return tuple(name for name, item in found.items() if hook in getattr(item, _MARK, ()))


async def run_hooks(instance: object, hook: Hook) -> list[Any]:
    """Run the hooks of an instance one after the other.

    Returns:
        What each returned. What one raises goes through, and those after it don't run.
    """
    results = []
    for name in collect_hooks(type(instance), hook):
        results.append(await _run(instance, hook, name))
    return results


async def _run(instance: object, hook: Hook, name: str) -> Any:
    try:
        result = getattr(instance, name)()
        return await result if inspect.isawaitable(result) else result
    except Exception as exc:
        event("hook.failed", service=type(instance).__name__, hook=f"{hook} {name}", error=repr(exc))
        raise


async def probe(instance: object, hook: Hook) -> bool:
    """Ask all ``liveness`` or ``readiness`` hooks; ``None`` and true values mean yes."""
    return all(result is None or bool(result) for result in await run_hooks(instance, hook))
