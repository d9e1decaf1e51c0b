"""Files and objects of a process: where they are, and who deletes what nobody needs any more."""

from __future__ import annotations

import asyncio

from dynamo_tasks.errors import DynamoError
from dynamo_tasks.files.library import Files
from dynamo_tasks.files.storage import Storage, storage_url
from dynamo_tasks.protocol.jitter import jittered
from dynamo_tasks.runtime.supervision.actor import Actor
from dynamo_tasks.store.objects import Objects

__all__ = ["FilesSweeper", "files_of"]

_EVERY = 2.0


def files_of(objects: Objects) -> Files:
    """The files of a namespace, in this installation's storage.

    Raises:
        ConfigError: ``DYNAMO_FILES_URL`` is no URL of a storage.
    """
    return Files(objects, Storage(storage_url()))


class FilesSweeper(Actor):
    """Deletes contents of files that were deleted, have ended, or were never finished.

    Any number may run side by side: what is due is given to one of them for a while.
    """

    name = "files-sweeper"

    def __init__(self, files: Files):
        self._files = files

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(jittered(_EVERY, 0.8, 1.2))
            try:
                while await self._files.sweep():
                    pass
            except DynamoError:
                continue  # Redis is away: what needs it says so
