"""Class attributes of a service that configuration may set."""

from __future__ import annotations

import sys
from typing import Any, ClassVar, get_args, get_origin

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.sdk.services.own_class import owner_of

__all__ = ["collect_annotations", "collect_attributes", "config_extras", "is_open", "taken_names"]

_EXTRAS = "config_extras"


def collect_attributes(cls: type) -> dict[str, Any]:
    """Public data attributes and their defaults, over the whole MRO, bases first.

    Methods, properties, endpoints, dependencies and nested classes are no data.
    """
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__[:-1]):
        owner = owner_of(base)
        # a base that is a service: what it declares, and not what it is configured with
        for name, value in (vars(base) if owner is None else owner.schema().attributes).items():
            if name.startswith("_") or name == _EXTRAS:
                continue
            if callable(value) or hasattr(type(value), "__get__"):
                found.pop(name, None)
            else:
                found[name] = value
    return found


def collect_annotations(cls: type) -> dict[str, Any]:
    """Resolved annotations of public attributes; one that cannot be resolved here says nothing: ``Any``."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__[:-1]):
        scope = vars(sys.modules.get(base.__module__, sys))
        for name, annotation in vars(base).get("__annotations__", {}).items():
            if not name.startswith("_") and name != _EXTRAS:
                found[name] = _resolve(annotation, scope)
    return found


def _resolve(annotation: Any, scope: dict[str, Any]) -> Any:
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, dict(scope))
        except (NameError, AttributeError, TypeError, SyntaxError):
            # names under TYPE_CHECKING, or of an enclosing function
            return Any
    if annotation is ClassVar:
        return Any
    return (get_args(annotation) or (Any,))[0] if get_origin(annotation) is ClassVar else annotation


def is_open(cls: type) -> bool:
    """Return whether keys that the class does not know become attributes: where it has no ``config_extras``."""
    return not hasattr(cls, _EXTRAS)


def taken_names(cls: type) -> frozenset[str]:
    """Public names of the class that are no settings."""
    return frozenset(name for name in dir(cls) if not name.startswith("_")) - set(collect_attributes(cls)) | {
        _EXTRAS
    }


def config_extras(cls: type) -> str | None:
    """The attribute that takes keys the class does not know; ``None``: they are refused, or become attributes.

    Raises:
        ConfigError: ``config_extras`` names no ``dict`` attribute of the class.
    """
    name = getattr(cls, _EXTRAS, None)
    if name is None:
        return None
    if not isinstance(name, str) or not isinstance(getattr(cls, name, None), dict):
        raise ConfigError(f"{cls.__name__}.{_EXTRAS} must name a dict attribute of the class, not {name!r}")
    return name
