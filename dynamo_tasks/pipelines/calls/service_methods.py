"""The methods of a service that can be called."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, NoReturn

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import UnknownMethodError
from dynamo_tasks.pipelines.calls.context import Calls
from dynamo_tasks.pipelines.calls.factory import BaseService

__all__ = ["method_names", "refuse_method"]

HOOKS = {"setup", "close"}
_OURS = {*dir(Calls), *dir(BaseService), *HOOKS}


def method_names(cls: type) -> list[str]:
    """Names of the methods of a service's class that can be called: public, no hooks."""
    names = (name for name in dir(cls) if not name.startswith("_") and name not in _OURS)
    return [name for name in names if _is_method(cls, inspect.getattr_static(cls, name))]


def _is_method(cls: type, found: Any) -> bool:
    """Functions of any make; not data, nested classes, properties, or objects that only happen to be callable."""
    if isinstance(found, partial) or inspect.isbuiltin(found):
        return True
    get = getattr(type(found), "__get__", None)
    if get is None or isinstance(found, type):
        return False
    try:
        bound = get(found, None, cls)
    except AttributeError:  # a descriptor of instances alone
        return False
    return callable(bound) and not isinstance(bound, type)


def refuse_method(service: str, method: str, known: list[str]) -> NoReturn:
    """Say what the service has.

    Raises:
        UnknownMethodError: always.
    """
    raise UnknownMethodError(
        f"service {service!r} has no method {method!r}{suggest(method, known, label='available')}"
    )
