"""Notices that an HTTP client has left."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive

__all__ = ["ClientWatch"]


class ClientWatch:
    """Ends its block when the client leaves; then :attr:`gone` is true.

    ::

        async with ClientWatch(receive) as client:
            ...                      # is cancelled when the client leaves
        if client.gone: ...

    The body of the request must have been read before.
    """

    def __init__(self, receive: Receive):
        self.gone = False
        self._receive = receive

    async def __aenter__(self) -> ClientWatch:
        task = asyncio.current_task()
        assert task is not None, "ASGI apps run in tasks"
        self._task = task
        self._cancelling = task.cancelling()
        self._watcher = asyncio.create_task(self._wait())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.disarm()
        # As in asyncio.timeout: swallow our own cancellation, and only ours.
        return self.gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError

    def disarm(self) -> None:
        """Watch no longer: what is left to do must not be interrupted."""
        self._watcher.cancel()

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._task.cancel()
