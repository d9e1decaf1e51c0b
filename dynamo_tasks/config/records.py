"""Attributes that are records (dataclasses, msgspec structs, pydantic models): merged and checked field by field."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

from dynamo_tasks.config.suggest import suggest

__all__ = ["UnknownFieldError", "as_mapping", "build_record", "is_model", "is_record", "placed"]


class UnknownFieldError(ValueError):
    """A mapping has a key that its type does not know."""


def as_mapping(value: Any) -> Any:
    """A record's fields by name, records within them alike; anything else as it is."""
    if not is_record(type(value)):
        return value
    return {name: as_mapping(getattr(value, name)) for name in _types_of(type(value)) if hasattr(value, name)}


def is_record(kind: Any) -> bool:
    """Return whether a type is a record: a dataclass, msgspec struct or pydantic model."""
    if not isinstance(kind, type):
        return False
    return is_dataclass(kind) or issubclass(kind, msgspec.Struct) or is_model(kind)


def is_model(kind: Any) -> bool:
    """Return whether a type is a pydantic model; asks only a pydantic that is loaded already."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def build_record(kind: Any, value: Any) -> Any:
    """Make what msgspec cannot: a pydantic model from a mapping.

    Raises:
        ValueError: the mapping does not fit; what and where.
    """
    import pydantic

    try:
        return kind.model_validate(value)
    except pydantic.ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        path = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {first['msg']}" if path else str(first["msg"])) from None


def placed(value: Any, expected: Any, path: str) -> Any:
    """A value with the keys of records in it under the fields' own names: dashes count as underscores.

    Args:
        value: Plain data.
        expected: The type that it shall become.
        path: Dotted, for the message.

    Raises:
        UnknownFieldError: a key that its type does not have; names the nearest.
    """
    if isinstance(value, Mapping):
        return _placed_mapping(value, expected, path)
    if isinstance(value, list | tuple) and (item := _item_type(expected)) is not None:
        return type(value)([placed(one, item, f"{path}[{n}]") for n, one in enumerate(value)])
    return value


def _placed_mapping(value: Mapping[Any, Any], expected: Any, path: str) -> Any:
    known = _record_types(expected)
    if known is None:
        inner = _value_type(expected)
        return {key: placed(item, inner, f"{path}.{key}") for key, item in value.items()}
    out = {}
    for key, item in value.items():
        name = next((n for n in known if n == key or n == str(key).replace("-", "_")), None)
        if name is None:
            raise UnknownFieldError(f"{path} has no key {key!r}{suggest(str(key), known)}")
        out[name] = placed(item, known[name], f"{path}.{name}")
    return out


def _choices(expected: Any) -> tuple[Any, ...]:
    """The types that a value may have."""
    origin = get_origin(expected)
    if origin is Annotated:
        return _choices(get_args(expected)[0])
    if origin in (Union, types.UnionType):
        return tuple(one for part in get_args(expected) for one in _choices(part))
    return (expected,)


def _record_types(expected: Any) -> dict[str, Any] | None:
    """Field → type, of all records that a mapping may become; ``None`` where it may become a plain ``dict``, too."""
    found: dict[str, Any] = {}
    for kind in _choices(expected):
        kind = get_origin(kind) or kind
        if kind in (Any, dict, Mapping, object) or _is_open(kind):
            return None
        if is_record(kind) or is_typeddict(kind):
            found |= _types_of(kind)
    return found or None


def _is_open(kind: Any) -> bool:
    return is_model(kind) and kind.model_config.get("extra") == "allow"


def _types_of(kind: Any) -> dict[str, Any]:
    """Names as they are written, and their types."""
    if is_model(kind):
        named = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
        return {name: field.annotation for name, field in kind.model_fields.items()} | named
    try:
        hints = get_type_hints(kind, include_extras=True)
    except (NameError, TypeError, AttributeError):  # names under TYPE_CHECKING
        hints = {}
    if issubclass(kind, msgspec.Struct):
        found = msgspec.structs.fields(kind)
        return {field.encode_name: hints.get(field.name, Any) for field in found}
    if is_typeddict(kind):
        return dict(hints)
    return {field.name: hints.get(field.name, Any) for field in fields(kind) if field.init}


def _item_type(expected: Any) -> Any:
    for kind in _choices(expected):
        if get_origin(kind) in (list, tuple, set, frozenset) and get_args(kind):
            return get_args(kind)[0]
    return None


def _value_type(expected: Any) -> Any:
    for kind in _choices(expected):
        if isinstance(get_origin(kind), type) and issubclass(get_origin(kind), Mapping) and get_args(kind):
            return get_args(kind)[-1]
    return Any
