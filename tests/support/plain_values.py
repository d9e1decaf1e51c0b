"""Values as endpoints return them, and what each is to every caller."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import pathlib
import sys
import types
import uuid
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import attrs
import msgspec
import pydantic

from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = ["BAD", "EXPECTED", "NAMES", "VALUES", "is_plain", "make"]

TOKEN = {"text": "a", "token_ids": [1, 2], "index": 0, "finish_reason": None}


class Color(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 2


@dataclasses.dataclass
class Data:
    x: Any = 1


class Struct(msgspec.Struct, rename="camel"):
    the_x: Any = 1


class Model(pydantic.BaseModel):
    x: Any = 1
    when: datetime.date = datetime.date(2026, 1, 2)


class Text(str):
    __slots__ = ()


class Stamp(datetime.datetime):
    """As pandas' and pendulum's."""


class Day(datetime.date):
    pass


class Span(datetime.timedelta):
    pass


class DriversUuid(uuid.UUID):
    """As that of a database driver."""


class Money(decimal.Decimal):
    pass


class Blob(bytes):
    pass


@attrs.define
class Defined:
    x: Any = 1
    _own: Any = 2


Pair = namedtuple("Pair", "a b")


def _token() -> TokenDelta:
    return TokenDelta("a", [1, 2])


VALUES: dict[str, tuple[Callable[[], Any], Any]] = {
    "token": (_token, TOKEN),
    "tokens": (lambda: [_token(), _token()], [TOKEN, TOKEN]),
    "delta": (lambda: {"delta": _token()}, {"delta": TOKEN}),
    "deep": (lambda: {"a": [{"b": (_token(),)}]}, {"a": [{"b": [TOKEN]}]}),
    "last": (
        lambda: TokenDelta("", [], 0, "stop", None, {"completion_tokens": 1}),
        {"text": "", "token_ids": [], "index": 0, "finish_reason": "stop", "usage": {"completion_tokens": 1}},
    ),
    "dataclass": (lambda: Data(Data(_token())), {"x": {"x": TOKEN}}),
    "struct": (lambda: Struct([Struct(_token())]), {"theX": [{"theX": TOKEN}]}),
    "pydantic": (
        lambda: Model(x=[Model(x=_token())]),
        {"x": [{"x": TOKEN, "when": "2026-01-02"}], "when": "2026-01-02"},
    ),
    "models": (
        lambda: [Data(Model()), Struct(Data())],
        [{"x": {"x": 1, "when": "2026-01-02"}}, {"theX": {"x": 1}}],
    ),
    "bytes": (
        lambda: {"b": b"ab", "a": [bytearray(b"ab"), Struct(Blob(b"ab"))], "d": Data(memoryview(b"ab"))},
        {"b": b"ab", "a": [b"ab", {"theX": b"ab"}], "d": {"x": b"ab"}},
    ),
    "times": (
        lambda: [datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC), datetime.timedelta(days=1)],
        ["2026-01-02T03:00:00Z", "P1D"],
    ),
    "enums": (lambda: {"c": Color.RED, "s": [Size.BIG], Color.RED: 1}, {"c": "red", "s": [2], "red": 1}),
    "uuid": (lambda: {uuid.UUID(int=1): uuid.UUID(int=2)}, {str(uuid.UUID(int=1)): str(uuid.UUID(int=2))}),
    "keys": (lambda: {1: {2: "x"}, None: 0, False: 1.5}, {"1": {"2": "x"}, "null": 0, "false": 1.5}),
    "others": (
        lambda: [
            {3},
            frozenset(),
            deque([1]),
            range(2),
            Pair(1, 2),
            decimal.Decimal("1.0"),
            pathlib.Path("/x"),
        ],
        [[3], [], [1], [0, 1], [1, 2], "1.0", "/x"],
    ),
    "mappings": (
        lambda: [OrderedDict(a=1), types.MappingProxyType({"a": _token()})],
        [{"a": 1}, {"a": TOKEN}],
    ),
    "subclass": (lambda: {Text("k"): Text("v")}, {"k": "v"}),
    "subclasses": (
        lambda: [
            Stamp(2026, 1, 2, 3, tzinfo=datetime.UTC),
            Stamp(2026, 1, 2),
            Day(2026, 1, 2),
            Span(days=1, hours=1),
            DriversUuid(int=1),
            Money("1.50"),
        ],
        [
            "2026-01-02T03:00:00Z",
            "2026-01-02T00:00:00",
            "2026-01-02",
            "P1DT3600S",
            str(uuid.UUID(int=1)),
            "1.50",
        ],
    ),
    "attrs": (lambda: Defined(Defined(_token())), {"x": {"x": TOKEN, "_own": 2}, "_own": 2}),
    "plain": (lambda: {"a": [1, None, True, 1.5, "x"]}, {"a": [1, None, True, 1.5, "x"]}),
    "scalar": (lambda: "x", "x"),
    "none": (lambda: None, None),
}

BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "object": (object, "object"),
    "inside": (lambda: {"a": [object()]}, "object"),
    "module": (lambda: sys, "module"),
    "complex": (lambda: [1j], "complex"),
    "cycle": (lambda: _cycle(), "list"),
    "key": (lambda: {(1, 2): 3}, "tuple"),
    "in a model": (lambda: Model(x=object()), "object"),
}
"""What cannot be made plain, and the type at fault."""


def _cycle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def _numpy() -> list[tuple[Any, Any]]:
    """Values of numpy, where it is installed, and what they are."""
    if find_spec("numpy") is None:
        return []
    import numpy as np

    return [
        (np.float32(0.5), 0.5), (np.int64(7), 7), (np.bool_(True), True), (np.str_("x"), "x"), (np.float64(1.5), 1.5),
        (np.array([[1, 2]]), [[1, 2]]), ({"a": (np.float32(0.5),)}, {"a": [0.5]}), ({np.bool_(True): 1}, {"true": 1}),
        (np.datetime64("2026-01-02"), "2026-01-02"), (np.timedelta64(3, "ns"), "P0D"),
        (np.array(["2026-01-02T03:04:05.123456789", "NaT"], "M8[ns]"), ["2026-01-02T03:04:05.123456789", None]),
    ]  # fmt: skip


_ALONE = (
    *(
        "token",
        "tokens",
        "delta",
        "deep",
        "last",
        "dataclass",
        "struct",
        "pydantic",
        "bytes",
        "scalar",
        "none",
    ),
)
EXPECTED = {name: VALUES[name][1] for name in _ALONE} | {
    "numpy": [plain for _, plain in _numpy()],
    "all": [plain for name, (_, plain) in VALUES.items() if name != "bytes"],
}
"""What goes over every edge."""
NAMES = [*EXPECTED, "object", "inside", "cycle", "in a model"]


def make(name: str) -> Any:
    """The value of that name."""
    if name == "numpy":
        return [value for value, _ in _numpy()]
    if name == "all":
        return [of() for name, (of, _) in VALUES.items() if name != "bytes"]
    return (VALUES.get(name) or BAD[name])[0]()


def is_plain(value: Any) -> bool:
    """Whether a value is of JSON's own types and bytes alone, and not of a subclass of them."""
    if type(value) is dict:
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(is_plain, value))
    return value is None or type(value) in (str, int, float, bool, bytes)
