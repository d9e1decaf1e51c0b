"""Rows of output and error files, as OpenAI writes them, gathered into parts of files."""

from __future__ import annotations

import msgspec

from dynamo_tasks.files.library import PART, Files
from dynamo_tasks.services.batches.line_queue import LineAnswer

__all__ = ["PartWriter", "row_of", "unmade_row"]

_encode = msgspec.json.encode


def row_of(request_id: str, custom_id: str, answer: LineAnswer) -> bytes:
    """The row of a line that was answered."""
    return (
        b'{"id":%b,"custom_id":%b,"response":{"status_code":%d,"request_id":%b,"body":%b},"error":null}\n'
        % (
            _encode(f"batch_req_{request_id.replace('-', '')}"),
            _encode(custom_id),
            answer.status,
            _encode(request_id),
            answer.body,
        )
    )


def unmade_row(request_id: str, custom_id: str, code: str, message: str) -> bytes:
    """The row of a line that was not run, or not to its end."""
    row = {
        "id": f"batch_req_{request_id.replace('-', '')}",
        "custom_id": custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }
    return _encode(row) + b"\n"


class PartWriter:
    """Writes rows of consecutive lines to the objects of a file that has no record yet.

    Args:
        files: Where it is.
        file_id: Its id.
        name: Of the objects; another one for each who may write the same lines.
    """

    def __init__(self, files: Files, file_id: str, name: str):
        self._files = files
        self._file_id = file_id
        self._name = name
        self._rows: list[bytes] = []
        self._size = 0
        self.objects: list[tuple[str, int]] = []

    def add(self, row: bytes) -> None:
        """Append a row."""
        self._rows.append(row)
        self._size += len(row)

    @property
    def full(self) -> bool:
        """``True`` if it holds as much as one object should have."""
        return self._size >= PART

    async def flush(self) -> None:
        """Write what is held. Safe to repeat."""
        if self._rows:
            data, name = b"".join(self._rows), f"{self._name}-{len(self.objects):03d}"
            await self._files.put(self._file_id, name, data)
            self._rows, self._size = [], 0
            self.objects.append((name, len(data)))
