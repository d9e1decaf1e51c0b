"""The tour of the house leads to files that are there, and its picture is the one that its script draws."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PATH = re.compile(r"(?<![\w/.])((?:[a-z_]+/)+(?:[A-Za-z_]+\.(?:py|lua|md|acl|json))?)(?![\w*])")
PLACES = (ROOT, ROOT / "dynamo_tasks")


DRAWN = runpy.run_path(str(DOCS / "draw_packages.py"))


def paths() -> list[str]:
    text = (DOCS / "architecture.md").read_text()
    return sorted({found for found in PATH.findall(text) if "NAME" not in found})


def sections() -> list[tuple[str, str]]:
    """Name of a package and the text about it."""
    parts = re.split(r"^## (\w+)\n", (DOCS / "packages.md").read_text(), flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("path", paths())
def test_what_the_tour_names_is_there(path: str) -> None:
    assert any((place / path).exists() for place in PLACES)


def test_the_picture_is_drawn_from_its_script() -> None:
    assert runpy.run_path(str(DOCS / "draw.py"))["picture"]() == (DOCS / "architecture.svg").read_text()


def test_every_package_has_its_section_from_the_ground_up() -> None:
    assert sorted(name for name, _ in sections()) == DRAWN["packages"]()


@pytest.mark.parametrize("package", DRAWN["packages"]())
def test_the_picture_of_a_package_is_current(package: str) -> None:
    drawn = (DOCS / "packages" / f"{package}.svg").read_text()
    assert DRAWN["picture"](package) == drawn, "run: python docs/draw_packages.py"


@pytest.mark.parametrize(("package", "text"), sections(), ids=[name for name, _ in sections()])
def test_what_is_said_of_a_package_is_there(package: str, text: str) -> None:
    folder = ROOT / "dynamo_tasks" / package
    named = re.findall(r"`([\w/]+(?:\.py|/))`", text)
    assert named
    missing = [one for one in named if not any((place / one).exists() for place in (folder, *PLACES))]
    assert missing == []
