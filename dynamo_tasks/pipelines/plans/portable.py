"""Functions and classes as they travel to a worker: an import path and JSON.

Code itself travels only where both sides have a key to sign it with; see :mod:`dynamo_tasks.pipelines.plans.signed`.
"""

from __future__ import annotations

import importlib
from typing import Any

import msgspec

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.pipelines.graph.functions import FunctionSpec, Items
from dynamo_tasks.pipelines.plans import signed
from dynamo_tasks.pipelines.plans.trust import Trust

__all__ = ["Reference", "is_path", "load", "refer"]

_OR_SIGN = f" (or set {signed.KEY} on both sides, to send it by cloudpickle)"
_MOST_ITEMS = 16 << 20
"""Bytes of the records of ``from_batch(list)``: they are part of the job's plan."""


class Reference(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function, a class or an instance.

    Attributes:
        path: ``module:qualified.name``; empty for the records of a list.
        args: Positional arguments.
        kwargs: Keyword arguments.
        state: Attributes of an instance.
        items: The records of a list.
        pickled: Target, arguments and keyword arguments by value; then there is no path.
        signature: Of ``pickled``.
    """

    path: str = ""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    state: dict[str, Any] | None = None
    items: list[Any] | None = None
    pickled: bytes = b""
    signature: bytes = b""


def refer(spec: FunctionSpec) -> Reference:
    """Describe what an operator or service is made of.

    Raises:
        ConfigError: it is in ``__main__``, a lambda, an inner function, or its arguments are no JSON; with the way out.
    """
    if isinstance(spec.target, Items):
        items = list(spec.target())
        size = len(_json("the records of from_batch", items))
        if size > _MOST_ITEMS:
            raise ConfigError(
                f"the records of from_batch take {size >> 20} MiB; give a BatchFunction that reads them where it runs"
            )
        return Reference(items=items)
    target = type(spec.target) if spec.is_instance else spec.target
    try:
        path = _path(target)
    except ConfigError:
        if not signed.enabled():
            raise
        pickled, signature = signed.dump(spec.name, (spec.target, spec.args, spec.kwargs))
        return Reference(pickled=pickled, signature=signature)
    state = {k: v for k, v in vars(spec.target).items() if k != "ctx"} if spec.is_instance else None
    _json(f"the arguments of {path}", [spec.args, spec.kwargs])
    if state:
        _json(f"the attributes of the instance of {path}", state, "; give the class and its arguments")
    return Reference(path, list(spec.args), dict(spec.kwargs), state)


def _json(what: str, value: Any, more: str = "") -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"{what} must be JSON to travel to a worker: {exc}{more}") from None


def _path(target: Any) -> str:
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", "")
    shown = f"{module}.{name}" if module else repr(target)
    if module == "__main__":
        raise ConfigError(
            f"{shown} cannot travel to a worker: move it into a module that the worker can import{_OR_SIGN}"
        )
    if not module or "<" in name:
        what = "a lambda" if "<lambda>" in name else "an inner function or class"
        raise ConfigError(
            f"{shown} is {what} and cannot travel to a worker: move it to the top of a module{_OR_SIGN}"
        )
    path = f"{module}:{name}"
    if _find(path) is not target:
        raise ConfigError(f"{path} is not {target!r}: a worker would import something else")
    return path


def _find(path: str) -> Any:
    """Import what is defined under a path: in that module and the classes on the way, nowhere else.

    A module's other names are not its own: ``shop:os.system`` is the ``os`` module's, also where ``shop`` is allowed.
    """
    module, _, name = path.partition(":")
    if not is_path(module) or not is_path(name):
        raise ConfigError(f"{path[:200]!r} is no path of the form module:qualified.name")
    try:
        found: Any = importlib.import_module(module)
        for depth, part in enumerate(name.split(".")):
            if depth and not isinstance(found, type):
                raise AttributeError(f"{part!r} is not looked up in what is no class")
            found = getattr(found, part)
    except Exception as exc:  # the module's own code runs, and may raise anything
        raise ConfigError(f"{path} cannot be imported here: {exc}") from exc
    if (getattr(found, "__module__", None), getattr(found, "__qualname__", None)) != (module, name):
        raise ConfigError(f"{path} is not defined there: it is {_brief(found)}")
    return found


def is_path(text: str) -> bool:
    """Return whether a text is a dotted name."""
    return all(part.isidentifier() for part in text.split("."))


def _brief(found: Any) -> str:
    return f"{getattr(found, '__module__', None)}:{getattr(found, '__qualname__', type(found).__name__)}"


def load(reference: Reference, trust: Trust) -> FunctionSpec:
    """The reverse of :func:`refer`, on a worker.

    Args:
        reference: Of the plan.
        trust: What of it may be run here.

    Raises:
        ConfigError: it is not allowed here, or cannot be imported; or it is code, and not signed as it must be.
    """
    if reference.items is not None:
        return FunctionSpec(Items(reference.items))
    if reference.pickled:
        trust.check_code()
        return FunctionSpec(*signed.restore(reference.pickled, reference.signature))
    trust.check(reference.path)
    target: Any = _find(reference.path)
    if reference.state is None:
        return FunctionSpec(target, tuple(reference.args), reference.kwargs)
    if not isinstance(target, type):
        raise ConfigError(f"{reference.path} is no class, so there is no instance of it")
    made: Any = target.__new__
    instance = made(target)
    vars(instance).update(reference.state)
    return FunctionSpec(instance)
