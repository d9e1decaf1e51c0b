"""Input files of batches, line by line."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec import Struct

from dynamo_tasks.errors import PayloadTooLargeError
from dynamo_tasks.files.file_data import FileRecord
from dynamo_tasks.files.library import Files

__all__ = ["SourceLine", "source_lines"]

_BOM = b"\xef\xbb\xbf"


class SourceLine(Struct, frozen=True):
    """A line that is not empty.

    Attributes:
        raw: Its bytes.
        end: Where in the file the next one begins.
    """

    raw: bytes
    end: int


async def source_lines(
    files: Files, file: FileRecord, start: int, most: int
) -> AsyncIterator[list[SourceLine]]:
    """Read the lines of a file, as many at a time as come with one piece of it.

    Args:
        files: Where it is.
        file: Which one.
        start: Where the first line begins.
        most: Bytes of a line.

    Raises:
        PayloadTooLargeError: A line has more.
        StorageUnavailableError: It cannot be read.
    """
    at, rest = start, b""
    async for piece in files.read(file, start):
        rest += piece
        whole = rest.rfind(b"\n") + 1
        if whole:
            yield _split(rest[:whole], at)
            at, rest = at + whole, rest[whole:]
        if len(rest) > most:
            raise PayloadTooLargeError(f"a line has more than {most} bytes")
    if rest:
        yield _split(rest, at)


def _split(text: bytes, at: int) -> list[SourceLine]:
    found = []
    for raw in text.removesuffix(b"\n").split(b"\n"):
        begins, at = at, at + len(raw) + 1
        line = raw.strip(b" \t\r")
        if not begins:
            line = line.removeprefix(_BOM)
        if line:
            found.append(SourceLine(line, at))
    return found
