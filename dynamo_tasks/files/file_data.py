"""Records of files: what is known of one, beside its contents."""

from __future__ import annotations

import re
import uuid

from msgspec import Struct

from dynamo_tasks.store.objects import ObjectKind, StoredObject

__all__ = ["FILE", "MOST_PARTS", "FileData", "FileRecord", "clean_filename", "new_file_id"]

MOST_PARTS = 20_000
"""Objects that the contents of one file may be."""
_FILENAME = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class FileData(Struct, frozen=True):
    """A file.

    Attributes:
        filename: As its client named it, without folders and control characters.
        purpose: ``batch``, ``batch_output``, …
        parts: Name and bytes of each of the objects that its contents are.
    """

    filename: str
    purpose: str
    parts: list[tuple[str, int]]

    @property
    def size(self) -> int:
        """Bytes of the whole."""
        return sum(size for _, size in self.parts)


FileRecord = StoredObject[FileData]
FILE: ObjectKind[FileData] = ObjectKind("file", FileData, most=100_000, swept=True)
"""The objects in Redis."""


def new_file_id() -> str:
    """A fresh id."""
    return f"file-{uuid.uuid4().hex}"


def clean_filename(name: str) -> str:
    """The name that is kept of what a client sent: it may be anything, and is never a path of ours."""
    last = _CONTROL.sub("", name.replace("\\", "/")).rpartition("/")[2].strip()
    return last[:_FILENAME] or "file"
