"""The tables of Celery's objects: each public name of the installed Celery has its place in docs/celery.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from celery import Signature, Task
from celery.result import AsyncResult, GroupResult

PAGE = Path(__file__).parents[2] / "docs" / "celery.md"


def placed(name: str) -> list[str]:
    """Names in the first column of the table of a class."""
    _, _, table = PAGE.read_text().partition(f"\n| `{name}` | here |\n|---|---|\n")
    rows = table.partition("\n\n")[0].splitlines()
    return [word for row in rows for word in re.findall(r"`(\w+)`", row.split(" | ")[0])]


@pytest.mark.parametrize("kind", [AsyncResult, GroupResult, Task, Signature])
def test_every_public_name_is_placed_once(kind: type) -> None:
    inherited = set(dir(dict)) if issubclass(kind, dict) else set()
    public = {name for name in dir(kind) if not name.startswith("_")} - inherited
    found = placed(kind.__name__)
    assert sorted(found) == sorted(public)
