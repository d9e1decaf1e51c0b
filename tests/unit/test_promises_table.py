"""The table of promises: every test that it names is there, and is marked as a long one if it is."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.support.source import parsed

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "promises.md"
NAMED = re.compile(r"`(?P<path>[\w/]+\.py)::(?P<test>test_\w+)`(?P<star>\*?)")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| ") and not line.endswith("| shown by |")
]
SHOWN = sorted({found.groups() for row in ROWS for found in NAMED.finditer(row[-1])})


@functools.cache
def _module(path: str) -> ast.Module:
    return parsed(TESTS / path)


def _test(path: str, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    for node in ast.walk(_module(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return node
    raise AssertionError(f"docs/promises.md names {path}::{name}, which is not there")


def _is_slow(path: str, name: str) -> bool:
    marks = [ast.unparse(node) for node in _test(path, name).decorator_list]
    of_all = [
        ast.unparse(node.value)
        for node in _module(path).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    return any(mark.endswith("mark.slow") for mark in marks) or any("mark.slow" in mark for mark in of_all)


def test_every_promise_has_a_test() -> None:
    assert len(ROWS) > 60
    assert [row for row in ROWS if len(row) != 2 or not NAMED.search(row[-1])] == []


@pytest.mark.parametrize(("path", "name", "star"), SHOWN, ids=lambda value: value or "quick")
def test_what_is_named_is_there(path: str, name: str, star: str) -> None:
    assert _is_slow(path, name) == bool(star), "the star is for slow tests"
