"""What Start, the tutorials and the how-to pages tell to do: done, in order, against real processes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.pages import Page, blocks
from tests.support.processes import ROOT
from tests.support.server import RedisServer

DOCS = ROOT / "docs"
NEEDS = {"fastapi.md": "fastapi", "languages.md": "node", "log-format.md": "node"}
"""Page → what it needs beside the extra `test`: a module or a command."""


def _pages() -> list[Path]:
    run = [
        DOCS / "index.md",
        DOCS / "log-format.md",
        *sorted(DOCS.glob("tutorials/*.md")),
        *sorted(DOCS.glob("how-to/*.md")),
    ]
    return [page for page in run if any(block.language in ("bash", "python") for block in blocks(page))]


def _run(path: Path, folder: Path) -> None:
    needed = NEEDS.get(path.name)
    if needed == "node" and not shutil.which("node"):
        pytest.skip("Node.js is not installed")
    elif needed and needed != "node":
        pytest.importorskip(needed)
    (folder / "redis").mkdir()
    with RedisServer(folder / "redis") as server:
        (folder / "page").mkdir()
        Page(path, folder / "page", server.url).run()


def test_the_page_on_cancelling_does_what_it_says(tmp_path: Path) -> None:
    _run(DOCS / "how-to" / "cancel.md", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", _pages(), ids=lambda path: str(path.relative_to(DOCS)))
def test_a_page_does_what_it_says(path: Path, tmp_path: Path) -> None:
    _run(path, tmp_path)
