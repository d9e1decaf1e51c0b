"""How a lost connection is made again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_tasks.errors import ServerUnavailableError
from dynamo_tasks.store.redis import connection as module
from dynamo_tasks.store.redis.address import Address
from dynamo_tasks.store.redis.connection import Link


def _delays(monkeypatch: pytest.MonkeyPatch, count: int) -> list[float]:
    """Pauses before the first ``count`` attempts on a server that is away."""
    seen: list[float] = []
    lost: list[Callable[[Any], None]] = []

    async def answer(commands: Any) -> list[bytes]:
        return [b"PONG"] * len(commands)

    async def connect(*_: Any, on_lost: Callable[[Any], None], **options: Any) -> Any:
        if lost:
            raise ServerUnavailableError("away")
        lost.append(on_lost)
        return SimpleNamespace(pipeline=answer, closed=False, close=lambda: None)

    monkeypatch.setattr(module.Wire, "connect", connect)

    async def reconnect() -> None:
        enough, ours, sleep = asyncio.Event(), asyncio.get_running_loop(), asyncio.sleep

        async def pause(seconds: float) -> None:
            if asyncio.get_running_loop() is not ours:  # a reader of another test lives in a thread yet
                await sleep(seconds)
                return
            if len(seen) < count:
                seen.append(seconds)
                return
            enough.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(module.asyncio, "sleep", pause)
        link = Link(Address.parse("redis://h"), name="test")
        await link.start()
        lost[0](None)
        await enough.wait()
        await link.close()

    asyncio.run(reconnect())
    return seen


def test_attempts_back_off_up_to_half_a_second_and_are_jittered(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = _delays(monkeypatch, 12), _delays(monkeypatch, 12)
    limits = [0.05, 0.1, 0.2, 0.4, *[0.5] * 8]
    for seen in (one, other):
        assert all(limit / 2 <= delay <= limit for delay, limit in zip(seen, limits, strict=True)), seen
    assert one != other
    assert len(set(one[4:])) > 1


def test_a_server_that_still_reads_its_data_is_not_up() -> None:
    async def connect() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while sent := await reader.read(1000):
                writer.write(b"-LOADING Redis is loading the dataset\r\n" if b"PING" in sent else b"+OK\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        link = Link(Address.parse(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"), name="test")
        with pytest.raises(ServerUnavailableError, match="still reads its data"):
            await link.start()
        assert not link.connected
        server.close()

    asyncio.run(connect())
