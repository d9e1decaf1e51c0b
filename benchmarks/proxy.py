"""A TCP proxy between a client and a server that can cut, hold back and drop replies."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Line", "Proxy"]


class Proxy:
    """Forwards connections to a server; the faults are switches.

    Use as ``async with Proxy(url) as proxy: Store.connect(proxy.url)``.
    """

    def __init__(self, url: str):
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self._path = parts.path
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._cut_on: bytes | None = None
        self._armed: asyncio.StreamWriter | None = None
        self.cuts = 0
        self._hold_on: bytes | None = None
        self._never = asyncio.Event()
        self.held = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self._flowing.set()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{self._path}"

    def cut(self) -> None:
        """Break every connection now."""
        for pair in list(self._pairs):
            for writer in pair:
                writer.transport.abort()
        self.cuts += 1

    def refuse(self, refusing: bool = True) -> None:
        """Break every connection and accept none until told otherwise."""
        self._refusing = refusing
        if refusing:
            self.cut()

    def hold(self) -> None:
        """Keep replies back."""
        self._flowing.clear()

    def flow(self) -> None:
        """Let what was kept back go."""
        self._flowing.set()

    def hold_command(self, needle: bytes) -> None:
        """Never pass on a command that contains ``needle``, nor anything behind it on its connection."""
        self._hold_on = needle

    def lose_reply_of(self, needle: bytes) -> None:
        """Pass the next command that contains ``needle`` on, and break its connection instead of answering."""
        self._cut_on = needle

    @property
    def lost(self) -> bool:
        """Whether the reply that was to be lost is lost."""
        return self._cut_on is None and self._armed is None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, up_writer)
        self._pairs.add(pair)
        tasks = [
            asyncio.create_task(self._requests(reader, up_writer, writer)),
            asyncio.create_task(self._replies(up_reader, writer)),
        ]
        self._tasks.update(tasks)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for end in pair:
            end.transport.abort()
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await task
        self._tasks.difference_update(tasks)
        self._pairs.discard(pair)

    async def _requests(
        self, reader: asyncio.StreamReader, up: asyncio.StreamWriter, down: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(1 << 16):
            if self._cut_on is not None and self._cut_on in data:
                self._cut_on, self._armed = None, down
            if self._hold_on is not None and self._hold_on in data:
                self.held += 1
                await self._never.wait()
            up.write(data)
            await up.drain()

    async def _replies(self, up: asyncio.StreamReader, down: asyncio.StreamWriter) -> None:
        while data := await up.read(1 << 16):
            await self._flowing.wait()
            if self._armed is down:
                self._armed = None
                self.cuts += 1
                return
            down.write(data)
            await down.drain()


class Line:
    """A :class:`Proxy` for processes whose test is synchronous: its loop runs in a thread.

    Use as ``with Line(server.url) as line: Worker(line.url)``.
    """

    def __init__(self, url: str):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._proxy = Proxy(url)

    def __enter__(self) -> Line:
        self._thread.start()
        self._on_loop(self._proxy.__aenter__())
        return self

    def __exit__(self, *exc: object) -> None:
        self._on_loop(self._proxy.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _on_loop(self, coro: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coro, self._loop).result(10)

    @property
    def url(self) -> str:
        """Where the server seems to be."""
        return self._proxy.url

    @property
    def held(self) -> int:
        """Number of commands that are held; see :meth:`hold_command`."""
        return self._proxy.held

    def hold_command(self, needle: str) -> None:
        """Never pass on a command that contains ``needle``: its sender waits, and can be killed in that state."""
        self._proxy.hold_command(needle.encode())

    def refuse(self, refusing: bool = True) -> None:
        """Break every connection, and accept none until told otherwise."""

        async def switch() -> None:
            self._proxy.refuse(refusing)

        self._on_loop(switch())
