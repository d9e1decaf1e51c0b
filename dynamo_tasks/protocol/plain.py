"""Plain data: what a value is on the other side of an edge, whether it crosses a process there or not.

Text, numbers, booleans, ``None``, bytes (base64 where the edge is JSON), lists, and dicts with text as keys. One
function makes it, at every edge (queue, dependency in the same process, eager mode, client, HTTP, events, pipelines),
so that a caller cannot see from a value which way it came.
"""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from collections.abc import Mapping, Set, ValuesView
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec

from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = ["NOT_PLAIN", "encode_plain", "to_plain"]

NOT_PLAIN = (TypeError, ValueError, OverflowError, RecursionError)
"""The errors over a value that cannot be made plain, or whose plain form cannot be written."""

_SCALARS = frozenset({str, int, float, bool, bytes, type(None)})
_NUMBERS = (int, float)
_LONG = 64
_LISTS = (list, tuple, Set, deque, range, ValuesView)
_TEXTS = (date, time, timedelta, UUID, Decimal)
_NO_TIME = "NaT"
"""Of numpy and pandas; ``None`` to others."""

_json = msgspec.json.Encoder().encode
_HINTS = {
    "coroutine": "; write `async def`, or await it",
    "generator": "; an endpoint that streams has `yield` itself",
    "async_generator": "; an endpoint that streams has `yield` itself",
}


def to_plain(value: Any) -> Any:
    """A value as plain data; containers are copied: what a caller does to it, the callee never sees.

    Token deltas, dataclasses, msgspec structs, pydantic and attrs models become dicts; what numpy has, numbers and
    lists; enums their values; dates, times, UUIDs, decimals and paths text.

    Raises:
        TypeError: something in it has no such form; names its type.
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is dict:
        return _plain_dict(value)
    if kind is list:
        return _plain_list(value)
    if isinstance(value, TokenDelta):
        return value.as_dict()
    return _converted(value)


def _plain_dict(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        key if type(key) is str else _key(key): item if type(item) in _SCALARS else to_plain(item)
        for key, item in value.items()
    }


def _plain_list(value: list[Any]) -> list[Any]:
    if len(value) > _LONG and type(value[-1]) in _NUMBERS:
        try:
            # token ids, vectors: ten times as fast as one by one
            return msgspec.convert(value, list[int | float | bool | None])
        except msgspec.ValidationError:
            pass
    return [item if type(item) in _SCALARS else to_plain(item) for item in value]


def _key(key: Any) -> str:
    """A key as JSON has it."""
    plain = to_plain(key)
    if isinstance(plain, bool) or plain is None:
        return _json(plain).decode()
    if isinstance(plain, bytes):
        return msgspec.json.decode(_json(plain), type=str)
    if not isinstance(plain, str | int | float):
        raise TypeError(f"a key of type {type(key).__name__} is no JSON value")
    return str(plain)


def _converted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _plain_dict(value)
    if isinstance(value, _LISTS):
        return [to_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return to_plain(value.value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if attributes := getattr(type(value), "__attrs_attrs__", None):
        return {one.name: to_plain(getattr(value, one.name)) for one in attributes}
    # str_keys: as JSON, which has no others
    plain = msgspec.to_builtins(value, str_keys=True, builtin_types=(bytes,), enc_hook=_other)
    if isinstance(value, msgspec.Struct) and isinstance(plain, dict):
        _redo_fields(value, plain)
    return plain


def _redo_fields(value: msgspec.Struct, plain: dict[str, Any]) -> None:
    """Convert the fields of a struct anew: msgspec gives their names, :func:`to_plain` their values."""
    for field in msgspec.structs.fields(value):
        item = getattr(value, field.name)
        if type(item) not in _SCALARS and field.encode_name in plain:
            plain[field.encode_name] = to_plain(item)


def _other(value: Any) -> Any:
    """Convert a value that msgspec does not know."""
    if _is_pydantic(value):
        return value.__pydantic_serializer__.to_python(value, mode="json", fallback=to_plain)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if callable(getattr(value, "tolist", None)):  # numpy's scalars and arrays, tensors, array.array
        return to_plain(_listed(value))
    base: Any
    for base in (str, int, float, bytes):
        if isinstance(value, base):  # a subclass that is nothing else
            return base(value)
    if isinstance(value, _TEXTS):
        return _text(value)
    if isinstance(value, Mapping | Set | deque):
        return to_plain(value)
    name = type(value).__name__
    raise TypeError(f"{name} is no JSON value{_HINTS.get(name, '')}")


def _listed(value: Any) -> Any:
    """Convert numpy's values to Python's; those for which Python has no type are refused."""
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    if kind == "M":  # below microseconds numpy's own answer is a number, without its unit
        return _times(value.astype(str).tolist())
    found = (value.astype("m8[us]") if kind == "m" else value).tolist()
    if type(found) is type(value):
        raise TypeError(f"{type(value).__name__} is no JSON value")
    return found


def _times(found: Any) -> Any:
    if isinstance(found, list):
        return [_times(item) for item in found]
    return None if found == _NO_TIME else found


def _text(value: Any) -> str | None:
    """The text of subclasses of dates, times, UUIDs and decimals: pandas', pendulum's, those of a database driver."""
    if isinstance(value, UUID | Decimal):
        return str(value)
    if isinstance(value, timedelta):
        return str(msgspec.to_builtins(timedelta(seconds=value.total_seconds())))
    text: str = value.isoformat()
    return None if text == _NO_TIME else re.sub(r"\+00:00$", "Z", text)


def _is_pydantic(value: Any) -> bool:
    """Return whether a value is a pydantic model; asks only a pydantic that is loaded already."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.BaseModel)


def encode_plain(value: Any) -> bytes:
    """A value as JSON.

    Raises:
        Exception: one of :data:`NOT_PLAIN`.
    """
    return _json(to_plain(value))
