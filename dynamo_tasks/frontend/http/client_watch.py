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
        self._watcher: asyncio.Task[None] | None = asyncio.create_task(self._wait())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.disarm()
        # As in asyncio.timeout: swallow our own cancellation, and only ours.
        return self.gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError

    def disarm(self) -> None:
        """Watch no longer: what is left to do must not be interrupted."""
        # Let go of it: its cancellation refers to its frame, and that to us; such a circle, and the connection with
        # it, would stay until the garbage collector looks at its oldest generation.
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._task.cancel()
