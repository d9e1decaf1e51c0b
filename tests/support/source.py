"""Python source as a tree, for tests that read the code."""

from __future__ import annotations

import ast
import gc
from pathlib import Path

__all__ = ["parsed"]


def parsed(path: Path) -> ast.Module:
    """The tree of a file.

    No garbage is collected meanwhile: a finalizer that logs a traceback parses source too, and Python before 3.11.9
    trips over the one inside of the other ("AST constructor recursion depth mismatch").
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        if collects:
            gc.enable()
