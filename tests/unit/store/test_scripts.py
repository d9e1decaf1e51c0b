"""The Lua scripts, as text: each includes what it uses of ``lua/lib/``, and no more."""

from __future__ import annotations

import re

import pytest

from dynamo_tasks.store.ledger.scripts import SOURCES, assembled, declared, script

SCRIPTS = [name for name in SOURCES if not name.startswith("lib/")]
_INCLUDES = re.compile(r"^ *-- @include (.*)\n", re.MULTILINE)
_DEFINED = re.compile(r"^local (?:function )?(\w+(?:, \w+)*)", re.MULTILINE)
_OF_WAIT_QUEUE = "lib/wait_queue_rules"
"""A part of ``lib/wait_queue``, inside of a function of it."""


def code(name: str) -> str:
    """A file without its comments and texts; what stands inside of another one with that."""
    text = SOURCES[name] + (SOURCES[_OF_WAIT_QUEUE] if name == "lib/wait_queue" else "")
    return re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "''", re.sub(r"--.*", "", text))


def defined(name: str) -> set[str]:
    return {one for names in _DEFINED.findall(code(name)) for one in names.split(", ")}


def included(name: str) -> set[str]:
    found = [f"lib/{one}" for names in _INCLUDES.findall(SOURCES[name]) for one in names.split(", ")]
    assert sorted(found) == sorted(set(found))
    return set(found) - {_OF_WAIT_QUEUE}


SHARED = {one: name for name in SOURCES if name.startswith("lib/") for one in defined(name)}


def used(name: str) -> set[str]:
    """Files of ``lib/`` of which a file calls a function or names a constant that it does not define itself."""
    own = set(re.findall(r"\blocal (?:function )?(\w+)", code(name)))
    found = re.findall(r"(?<![.\w])(\w+)\(", code(name)) + re.findall(r"(?<![.\w])([A-Z_]{3,})\b", code(name))
    return {SHARED[one] for one in found if one in SHARED and one not in own}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_file_includes_what_it_uses(name: str) -> None:
    if name != _OF_WAIT_QUEUE:
        assert included(name) == used(name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_uses_its_arguments(name: str) -> None:
    """``base`` is for what it includes, too."""
    text = re.sub(r"--.*", "", assembled(name, SOURCES))
    body = text[text.index("unpack(ARGV") :]
    names = declared(SOURCES[name])
    assert [one for one in names[1:] if one != "..." and not re.search(rf"\b{one}\b", body)] == []
    assert (body.count("REST") > 1) == ("..." in names)


def test_arguments_travel_in_the_order_of_their_declaration() -> None:
    defer = script("defer")
    assert defer.arguments(message=b"m", id="r", wait=5, base="b") == ["b", "r", 5, b"m"]
    assert script("withdraw").arguments("m1", "m2", channel="c", lease="1", base="b") == [
        "b",
        "1",
        "c",
        "m1",
        "m2",
    ]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ((), {"base": "b"}),
        ((), {"base": "b", "id": "r", "wait": 5, "message": "m", "nonsense": 1}),
        (("x",), {}),
    ],
)
def test_an_argument_that_is_missing_or_unknown_is_refused(
    more: tuple[str, ...], named: dict[str, str | int]
) -> None:
    with pytest.raises(TypeError, match="defer takes base, id, wait, message; given"):
        script("defer").arguments(*more, **named)


def test_flags_stay_in_the_first_line() -> None:
    flagged = [name for name in SCRIPTS if "#!lua" in SOURCES[name]]
    assert len(flagged) > 5
    assert all(script(name).source.startswith("#!lua flags=") for name in flagged)
