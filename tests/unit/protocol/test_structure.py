"""How much there is in a JSON text, counted without decoding it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http import structure
from dynamo_tasks.protocol.http.structure import MAX_CONTAINERS, MAX_VALUES, check_structure

TEXTS = st.text(alphabet='[]{}:,"\\ä🙂 x', max_size=12)
VALUES = st.recursive(
    TEXTS | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=30
)


def _containers(value: Any) -> Iterator[str]:
    if isinstance(value, list | dict):
        yield "{" if isinstance(value, dict) else "["
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _containers(inner)


@settings(deadline=None, max_examples=300)
@given(VALUES, st.integers(0, 12), st.integers(1, 9), st.booleans())
def test_only_what_stands_outside_of_strings_counts(
    value: Any, most: int, window: int, ensure_ascii: bool
) -> None:
    raw = json.dumps(value, ensure_ascii=ensure_ascii).encode()
    found = list(_containers(value))
    marks = ((b"[", most), (b"{", most))
    with (
        mock.patch.object(structure, "_MARKS", marks),
        mock.patch.object(structure, "_WINDOW", window),
        mock.patch.object(structure, "MAX_CONTAINERS", 0),
    ):
        if max(found.count("["), found.count("{")) > most:
            with pytest.raises(InvalidRequestError):
                check_structure(raw)
        else:
            check_structure(raw)


@pytest.mark.parametrize(
    ("item", "times"), [(b"[]", MAX_CONTAINERS + 1), (b"{}", MAX_CONTAINERS + 1), (b"1", MAX_VALUES + 2)]
)
def test_too_much_is_refused(item: bytes, times: int) -> None:
    with pytest.raises(InvalidRequestError, match="holds more than"):
        check_structure(b"[" + b",".join([item] * times) + b"]")


@pytest.mark.parametrize("raw", [b'"', b'"\\', b'"' + b"[" * 200_000, b'"' + b"\\" * 200_001, b"[" * 100_000])
def test_what_is_cut_off_comes_to_an_end(raw: bytes) -> None:
    check_structure(raw + b"," * (MAX_CONTAINERS - 1))


def test_a_text_may_be_full_of_them() -> None:
    check_structure(json.dumps({"prompt": '[{":,\\' * 300_000}).encode())
