"""Hooks of the site: what a page links in the repository, outside of the documents, is shown as a path."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[(?P<text>[^\]]+)\]\((?:\.\./)+(?P<path>(?!\.\./)[\w./-]+)(?:#[\w-]+)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace links that leave the folder of documents; those that stay in it are left to mkdocs."""
    depth = page.file.src_uri.count("/") + 1

    def shown(found: re.Match[str]) -> str:
        if found.group().count("../") < depth:
            return found.group()
        text, path = found["text"], found["path"]
        return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}`)"

    return _OUTSIDE.sub(shown, markdown)
