"""The output of ``serve``: coloured on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import IO

from rich.console import Console
from rich.text import Text

from dynamo_tasks.serve.processes.spec import Notice, NoticeKind, ProcessSpec

__all__ = ["Output", "plain_console"]

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")
_STYLES = {
    NoticeKind.STARTED: "dim",
    NoticeKind.READY: "green",
    NoticeKind.RESTARTING: "yellow",
    NoticeKind.FAILED: "bold red",
    NoticeKind.KILLED: "yellow",
}
_LABEL_WIDTH = 8
_PIPE_WIDTH = 250


class _Unbuffered(io.TextIOWrapper):
    """Standard output that may be on a full disk: what it does not take is dropped, and not tried again at the end."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            raise
        except OSError:
            return len(text)


def _stdout() -> IO[str]:
    try:
        raw = io.FileIO(sys.stdout.fileno(), "w", closefd=False)
    except OSError:  # a test's
        return sys.stdout
    return _Unbuffered(raw, encoding=sys.stdout.encoding, errors="replace", write_through=True)


class _ResilientConsole(Console):
    """A console whose reader may leave (``serve | head``): what runs goes on, unseen."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def plain_console() -> Console:
    """A console for stdout that never guesses at markup or highlights, nor cuts what a script will read."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


class Output:
    """Lines of ``serve`` and of its processes, each with its source in front."""

    def __init__(self, console: Console | None = None, names: Sequence[str] = ()) -> None:
        """Prepare.

        Args:
            console: stdout by default.
            names: Names of the processes: they give the width of the first column, and a colour each.
        """
        self._console = console or _ResilientConsole(
            file=_stdout(), highlight=False, markup=False, emoji=False
        )
        self.names(names)

    def names(self, names: Sequence[str]) -> None:
        """Set the names of the processes."""
        self._width = max([_LABEL_WIDTH, *map(len, names)])
        self._colours = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}

    def say(self, label: str, text: str, *, style: str = "") -> None:
        """A line of ``serve`` itself.

        Args:
            label: First column: ``server``, ``ready``, …
            text: Anything; never cut or wrapped.
            style: A rich style for the text.
        """
        self._print(Text.assemble((label.ljust(self._width), "bold"), "   ", (text, style)))

    def log(self, spec: ProcessSpec, line: str) -> None:
        """A line that a process wrote; its own colours are kept on a terminal and dropped
        elsewhere, and so are empty lines."""
        text = Text.from_ansi(line)
        if not text.plain.strip():
            return
        self._print(
            Text.assemble((f"{spec.name.ljust(self._width)} | ", self._colours.get(spec.name, "")), text)
        )

    def notice(self, notice: Notice) -> None:
        """An event in the life of a process."""
        name = notice.spec.name
        self._print(
            Text.assemble(
                (f"{name.ljust(self._width)} * ", self._colours.get(name, "")),
                (notice.text, _STYLES[notice.kind]),
            )
        )

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)
