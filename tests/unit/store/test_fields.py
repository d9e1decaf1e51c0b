"""Fields of records: their short names are written out in one place."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from dynamo_tasks.store.ledger.fields import Field, coded
from dynamo_tasks.store.ledger.scripts import SOURCES
from tests.support.source import parsed

ROOT = Path(__file__).parents[3]
FILES = [
    path
    for folder in ("dynamo_tasks", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if path.name not in ("fields.py", Path(__file__).name)
]
NAMES = {field.value for field in Field}
SPELT = re.compile(rf"""(['"])({"|".join(map(re.escape, sorted(NAMES)))})\1""")
FILES = [path for path in FILES if SPELT.search(path.read_text())]  # to parse the others takes seconds
ASKS = re.compile(r"H(GET|SET|MGET|DEL|EXISTS|INCRBY)|h(get|set|mget|del|exists|incrby)|field|record")
"""Commands, methods of clients, and helpers of tests that take fields."""


def test_each_field_has_a_name_of_its_own() -> None:
    assert len(NAMES) == len(Field.__members__)


def test_lua_has_them_by_their_words() -> None:
    assert coded("if r.state then return F.end_id end") == "if r['st'] then return 'end' end"
    with pytest.raises(KeyError):
        coded("return r.nonsense")


@pytest.mark.parametrize("name", [name for name in sorted(SOURCES) if "job" not in name])
def test_no_short_name_stands_in_a_script(name: str) -> None:
    code = re.sub(r"--.*", "", SOURCES[name])
    assert NAMES & set(re.findall(r"'(\w+)'", code)) == set()


def texts(nodes: list[ast.expr]) -> set[str]:
    found = {node.value for below in nodes for node in ast.walk(below) if isinstance(node, ast.Constant)}
    return {
        one.decode("latin-1") if isinstance(one, bytes) else one
        for one in found
        if isinstance(one, (str, bytes))
    }


def spelt(node: ast.AST) -> set[str]:
    """Short names in a call or a list that reads or writes a hash."""
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        given = texts([*node.args, *(keyword.value for keyword in node.keywords)])
        return given & NAMES if any(map(ASKS.fullmatch, (*given, called))) else set()
    if isinstance(node, (ast.List, ast.Tuple)):
        return texts(node.elts) & NAMES if any(map(ASKS.fullmatch, texts(node.elts))) else set()
    return set()


def test_no_short_name_stands_in_python() -> None:
    hits = []
    for path in FILES:
        for node in ast.walk(parsed(path)):
            if names := spelt(node):
                hits.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} {sorted(names)}")
    assert hits == []


def looked_up(node: ast.AST) -> tuple[ast.expr | None, str | bytes]:
    """Where a constant is a key, and that key."""
    match node:
        case ast.Subscript(value=value, slice=ast.Constant(value=str(key) | bytes(key))):
            return value, key
        case ast.Call(
            func=ast.Attribute(value=value, attr="get" | "pop"),
            args=[ast.Constant(value=str(key) | bytes(key)), *_],
        ):
            return value, key
    return None, ""


def test_no_short_name_is_looked_up_in_a_record() -> None:
    """As the key of what is read from Redis (``row[b"st"]``), or of what is called a record."""
    hits = []
    for path in FILES:
        for node in ast.walk(parsed(path)):
            where, key = looked_up(node)
            text = key.decode("latin-1") if isinstance(key, bytes) else key
            if where is None or text not in NAMES:
                continue
            if isinstance(key, bytes) or re.search("record|before|was", ast.unparse(where)):
                hits.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} {key!r}")
    assert hits == []
