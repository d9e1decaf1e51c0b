"""The documents as a whole: every page is in the site's nav, links lead somewhere, generated pages are current."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
REFERENCE = runpy.run_path(str(DOCS / "reference.py"))


def named(nav: object) -> list[str]:
    """Pages of a nav, in its order."""
    if isinstance(nav, str):
        return [nav]
    parts = nav if isinstance(nav, list) else list(nav.values()) if isinstance(nav, dict) else []
    return [page for part in parts for page in named(part)]


def anchors(path: Path) -> set[str]:
    """Anchors of a page, as GitHub and the site make them of its headings."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    found = set()
    for head in heads:
        text = re.sub(r"[^\w\s-]", "", re.sub(r"\]\([^)]*\)", "", head).lower().strip())
        found |= {re.sub(r"\s", "-", text), re.sub(r"[-\s]+", "-", text)}
    return found


def test_every_page_is_in_the_nav_once() -> None:
    nav = named(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(nav) == sorted(path.relative_to(DOCS).as_posix() for path in PAGES), (
        "mkdocs.yml must name each page"
    )


@pytest.mark.parametrize(
    "path",
    [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for found in LINK.finditer(FENCE.sub("", path.read_text())):
        target, _, anchor = found["target"].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        other = (path.parent / target).resolve() if target else path
        if not other.exists() or (anchor and other.suffix == ".md" and anchor not in anchors(other)):
            broken.append(found["target"])
    assert broken == []


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="annotations and help read otherwise on other Pythons"
)
@pytest.mark.parametrize("name", REFERENCE["PAGES"])
def test_the_reference_is_that_of_the_code(name: str) -> None:
    committed = (DOCS / "reference" / f"{name}.md").read_text()
    assert REFERENCE["PAGES"][name]().rstrip() + "\n" == committed, "run: python docs/reference.py"


@pytest.mark.parametrize("name", ["sequence", "states", "recovery"])
def test_the_picture_of_a_concept_is_that_of_its_script(name: str) -> None:
    drawn = runpy.run_path(str(DOCS / "draw_concepts.py"))["PICTURES"][name]()
    assert drawn == (DOCS / "concepts" / f"{name}.svg").read_text(), "run: python docs/draw_concepts.py"
