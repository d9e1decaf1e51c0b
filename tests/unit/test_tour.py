"""The tour of the house leads to files that are there, and its picture is the one that its script draws."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PATH = re.compile(r"(?<![\w/.])((?:[a-z_]+/)+(?:[A-Za-z_]+\.(?:py|lua|md|acl|json))?)(?![\w*])")
PLACES = (ROOT, ROOT / "dynamo_tasks")


def paths() -> list[str]:
    text = (DOCS / "architecture.md").read_text()
    return sorted({found for found in PATH.findall(text) if "NAME" not in found})


@pytest.mark.parametrize("path", paths())
def test_what_the_tour_names_is_there(path: str) -> None:
    assert any((place / path).exists() for place in PLACES)


def test_the_picture_is_drawn_from_its_script() -> None:
    assert runpy.run_path(str(DOCS / "draw.py"))["picture"]() == (DOCS / "architecture.svg").read_text()
