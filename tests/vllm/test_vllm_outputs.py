"""The socket of the engine core's outputs, read without zmq.asyncio: real sockets, no engine."""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm


def on_a_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test as vLLM's environment runs it, which has no plugin for asynchronous ones."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner() as runner:
            runner.run(test(*args, **kwargs))  # type: ignore[arg-type]

    return run


@asynccontextmanager
async def sockets(folder: Path, gap: float) -> AsyncIterator[tuple[Any, Any, Any]]:
    """The core's end, the client's end as vLLM makes it, and what was put upon that."""
    import zmq
    import zmq.asyncio

    from dynamo_tasks.engines.vllm.outputs import Outputs

    context = zmq.Context()
    core, ours = context.socket(zmq.PUSH), zmq.asyncio.Context(context).socket(zmq.PULL)
    core.bind(f"ipc://{folder}/outputs")
    ours.connect(f"ipc://{folder}/outputs")
    try:
        yield core, ours, Outputs(ours, lambda: gap)
    finally:
        ours.close(linger=0)
        core.close(linger=0)
        context.term()


async def read(ours: Any, n: int) -> list[list[bytes]]:
    return [[bytes(frame) for frame in await ours.recv_multipart(copy=False)] for _ in range(n)]


@pytest.mark.parametrize("gap", [0.0, 0.005])
@on_a_loop
async def test_all_come_in_order(tmp_path: Path, gap: float) -> None:
    async with sockets(tmp_path, gap) as (core, ours, _):
        sent = [[b"%d" % n, b"x" * (n % 7)] for n in range(2000)]
        reading = asyncio.create_task(read(ours, len(sent)))
        for n, frames in enumerate(sent):
            core.send_multipart(frames)
            if n % 50 == 0:
                await asyncio.sleep(0.001 * (n % 3))
        assert await asyncio.wait_for(reading, 20) == sent


@on_a_loop
async def test_it_is_not_looked_at_more_often_than_said(tmp_path: Path) -> None:
    async with sockets(tmp_path, 0.02) as (core, ours, _):
        looked: list[float] = []

        async def note() -> None:
            for _ in range(60):
                await ours.recv_multipart(copy=False)
                looked.append(time.monotonic())

        noting = asyncio.create_task(note())
        for _ in range(60):
            core.send(b"step")
            await asyncio.sleep(0.002)
        await asyncio.wait_for(noting, 10)
        looks = [at for at, before in zip(looked, [0.0, *looked], strict=False) if at - before > 0.001]
        assert len(looks) <= 1 + (looked[-1] - looked[0]) / 0.02
        assert min(after - before for before, after in itertools.pairwise(looks)) > 0.018


@on_a_loop
async def test_after_a_pause_the_next_comes_at_once(tmp_path: Path) -> None:
    async with sockets(tmp_path, 0.2) as (core, ours, _):
        core.send(b"first")
        await read(ours, 1)
        await asyncio.sleep(0.25)
        took = []
        for _ in range(3):
            reading = asyncio.create_task(read(ours, 1))
            await asyncio.sleep(0.25)
            began = time.monotonic()
            core.send(b"next")
            await asyncio.wait_for(reading, 5)
            took.append(time.monotonic() - began)
        assert min(took) < 0.1


@on_a_loop
async def test_who_waits_no_more_leaves_nothing_on_the_loop(tmp_path: Path) -> None:
    async with sockets(tmp_path, 0.0) as (_, ours, _):
        reading = asyncio.create_task(read(ours, 1))
        await asyncio.sleep(0.05)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        assert not asyncio.get_running_loop().remove_reader(ours.fileno())


@on_a_loop
async def test_who_gets_the_descriptor_of_a_closed_socket_keeps_its_reader(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with sockets(tmp_path, 0.0) as (_, ours, _):
        fd = ours.fileno()
        reading = asyncio.create_task(read(ours, 1))
        await asyncio.sleep(0.05)
        removed: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            real = loop.remove_reader
            patch.setattr(loop, "remove_reader", lambda fd: removed.append(fd) or real(fd))
            ours.close(linger=0)
            assert removed == [fd]
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(reading, 5)
        assert removed == [fd], "somebody else's by now"


@on_a_loop
async def test_who_reads_a_closed_socket_is_notified(tmp_path: Path) -> None:
    import zmq

    async with sockets(tmp_path, 0.0) as (core, ours, _):
        core.send(b"x")
        await read(ours, 1)
        ours.close(linger=0)
        with pytest.raises(zmq.ZMQError):
            await asyncio.wait_for(read(ours, 1), 5)
