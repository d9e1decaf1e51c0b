"""Files of one namespace: written in parts, read as one, deleted with all that they have.

Invariants:

1. The contents of a file are objects ``<namespace>/<id>/<name>``. Each is written once, as a whole.
2. Before the first of them is written, Redis knows when they are to be deleted. The record of the file takes that over
   in the same step in which it appears. So what has no record is deleted, whatever process died when.
3. A file that has a record is whole, and never changes.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Self

from dynamo_tasks.errors import DynamoError, PayloadTooLargeError, StorageUnavailableError
from dynamo_tasks.files.file_data import FILE, MOST_PARTS, FileData, FileRecord, new_file_id
from dynamo_tasks.files.storage import Storage
from dynamo_tasks.observe.log import event
from dynamo_tasks.store.objects import Objects, Page

__all__ = ["PART", "Files", "Upload"]

PART = 4 << 20
"""Bytes of an object: as much as an upload holds in memory."""
_RESERVED = 600.0
"""Seconds for which the contents of an upload are kept, from its last renewal."""
_RENEW = 60.0


class Files:
    """The files of one namespace.

    Args:
        objects: Of the namespace, in Redis.
        storage: Where contents are.
    """

    def __init__(self, objects: Objects, storage: Storage):
        self._objects = objects
        self._storage = storage
        self._namespace = objects.namespace

    async def upload(self, owner: str) -> Upload:
        """Begin a new file; to be used as ``async with``."""
        file_id = new_file_id()
        await self.reserve(file_id)
        return Upload(self, file_id, owner)

    async def reserve(self, file_id: str, seconds: float = _RESERVED, *, renew: bool = False) -> None:
        """Keep what is written of a file for some time; it is deleted after that, unless a record appears.

        Raises:
            ObjectConflictError: It was to be renewed, and has been given up.
        """
        await self._objects.reserve(FILE, file_id, seconds, renew=renew)

    async def drop(self, file_id: str) -> None:
        """Give up a file that has no record."""
        await self._objects.reserve(FILE, file_id, 0)

    async def put(self, file_id: str, name: str, data: bytes) -> None:
        """Write a part of a file that has no record yet."""
        await self._storage.put(self._part(file_id, name), data)

    async def finish(self, file_id: str, owner: str, data: FileData, ttl: float | None) -> FileRecord:
        """Make the record of a file whose parts are written.

        Raises:
            ObjectConflictError: Its reservation has ended.
            InvalidRequestError: The owner has as many files as may be.
        """
        return await self._objects.create(FILE, file_id, owner, data, ttl=ttl, reserved=True)

    async def get(self, file_id: str, owner: str | None) -> FileRecord:
        """The record of a file; raises :class:`ObjectNotFoundError`."""
        return await self._objects.get(FILE, file_id, owner)

    async def page(self, owner: str, order: str, after: str, limit: int) -> Page[FileData]:
        """A page of an owner's files; see :meth:`Objects.page`."""
        return await self._objects.page(FILE, owner, order=order, after=after, limit=limit)

    async def delete(self, file_id: str, owner: str | None) -> None:
        """Delete a file; its contents go soon after. Raises :class:`ObjectNotFoundError`."""
        await self._objects.delete(FILE, file_id, owner)

    async def read(self, file: FileRecord, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Read the contents of a file, or bytes ``start`` up to ``end`` of it, in pieces.

        Raises:
            StorageUnavailableError: It cannot be read, e.g. since it was deleted meanwhile.
        """
        at, end = 0, file.data.size if end is None else end
        for name, size in file.data.parts:
            first, last = max(start - at, 0), min(end - at, size)
            if first < last:
                async for piece in self._storage.read(self._part(file.id, name), first, last):
                    yield piece
            at += size

    async def sweep(self, limit: int = 50) -> int:
        """Delete contents of files that were deleted, have ended or were never finished; returns how many."""
        swept = []
        for file_id in await self._objects.sweep(FILE, limit=limit):
            try:
                await self._storage.remove(f"{self._namespace}/{file_id}")
                swept.append(file_id)
            except StorageUnavailableError as exc:  # it is due again soon
                event("files.sweep_failed", file=file_id, error=exc.message)
        if swept:
            # Only now: contents that could not be deleted are due again.
            await self._objects.sweep(FILE, swept, limit=0)
        return len(swept)

    def _part(self, file_id: str, name: str) -> str:
        return f"{self._namespace}/{file_id}/{name}"


class Upload:
    """A file that is being written; given up at the end of its block, unless it was finished."""

    def __init__(self, files: Files, file_id: str, owner: str):
        self.id = file_id
        self._files = files
        self._owner = owner
        self._held: list[bytes] = []
        self._size = 0
        self._parts: list[tuple[str, int]] = []
        self._renewed = time.monotonic()
        self._done = False

    async def write(self, data: bytes) -> None:
        """Append some bytes.

        Raises:
            ObjectConflictError: It took too long, and was given up.
            StorageUnavailableError: They could not be written.
        """
        self._held.append(data)
        self._size += len(data)
        if self._size >= PART:
            await self._flush()
        if time.monotonic() - self._renewed > _RENEW:
            await self._files.reserve(self.id, renew=True)
            self._renewed = time.monotonic()

    async def finish(self, filename: str, purpose: str, ttl: float | None = None) -> FileRecord:
        """Make it a file.

        Args:
            filename: Its name, see :func:`~dynamo_tasks.files.file_data.clean_filename`.
            purpose: What it is for.
            ttl: Seconds after which it goes; ``None`` = never.
        """
        await self._flush()
        found = await self._files.finish(self.id, self._owner, FileData(filename, purpose, self._parts), ttl)
        self._done = True
        return found

    async def _flush(self) -> None:
        held, self._held, self._size = self._held, [], 0
        if not held:
            return
        if len(self._parts) == MOST_PARTS:
            raise PayloadTooLargeError(f"a file has at most {MOST_PARTS * PART} bytes")
        data = b"".join(held)
        held.clear()
        name = f"{len(self._parts):05d}"
        await self._files.put(self.id, name, data)
        self._parts.append((name, len(data)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._done:
            with suppress(DynamoError):  # Redis is away: then the reservation ends by itself
                await self._files.drop(self.id)
