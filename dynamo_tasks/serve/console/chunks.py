"""Values of a stream on the terminal: text runs on, anything else is one JSON document per line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import click

__all__ = ["ChunkPrinter"]


class ChunkPrinter:
    """Shows values as they come. A context manager, so that the last line is always ended."""

    def __init__(self) -> None:
        """Start at the beginning of a line."""
        self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_line()

    def __call__(self, value: Any) -> None:
        """Show one value.

        Args:
            value: A mapping with a string under ``text`` is a piece of text; a bare string too.
        """
        text = value.get("text") if isinstance(value, Mapping) else value
        if isinstance(text, str):
            if text:
                click.echo(text, nl=False)
                self._open = not text.endswith("\n")
            return
        self._end_line()
        click.echo(json.dumps(value, ensure_ascii=False, default=str))

    def _end_line(self) -> None:
        if self._open:
            click.echo()
            self._open = False
