"""Upkeep of the objects of HTTP APIs: where files are, who deletes what nobody needs, who completes conversations."""

from __future__ import annotations

import asyncio
from abc import abstractmethod

from dynamo_tasks.errors import DynamoError
from dynamo_tasks.files.library import Files
from dynamo_tasks.files.storage import Storage, storage_url
from dynamo_tasks.frontend.responses.turns import Turns
from dynamo_tasks.protocol.jitter import jittered
from dynamo_tasks.runtime.supervision.actor import Actor
from dynamo_tasks.store.objects import Objects

__all__ = ["ConversationSweeper", "FilesSweeper", "files_of"]

_EVERY = 2.0


def files_of(objects: Objects) -> Files:
    """The files of a namespace, in this installation's storage.

    Raises:
        ConfigError: ``DYNAMO_FILES_URL`` is no URL of a storage.
    """
    return Files(objects, Storage(storage_url()))


class _Upkeep(Actor):
    async def _run(self) -> None:
        while True:
            await asyncio.sleep(jittered(_EVERY, 0.8, 1.2))
            try:
                await self._sweep()
            except DynamoError:
                continue  # Redis is away: what needs it says so

    @abstractmethod
    async def _sweep(self) -> None:
        """Do what is due now."""


class FilesSweeper(_Upkeep):
    """Deletes contents of files that were deleted, have ended, or were never finished.

    Any number may run side by side: what is due is given to one of them for a while.
    """

    name = "files-sweeper"

    def __init__(self, files: Files):
        self._files = files

    async def _sweep(self) -> None:
        while await self._files.sweep():
            pass


class ConversationSweeper(_Upkeep):
    """Looks for ends of responses that go on in conversations, for those whom nobody reads.

    Any number may run side by side: each looks at what none has looked at for a while.
    """

    name = "conversation-sweeper"

    def __init__(self, turns: Turns):
        self._turns = turns

    async def _sweep(self) -> None:
        await self._turns.sweep()
