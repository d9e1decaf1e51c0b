"""kombu's hub on uvloop."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable

import pytest
import uvloop
from kombu.utils.eventio import READ

from dynamo_tasks.queue.hub import _Poller

LOOPS = pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.new_event_loop])
Factory = Callable[[], asyncio.AbstractEventLoop]


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        return near, server.accept()[0]


def _reset(sock: socket.socket) -> None:
    """Close it with an RST in place of a FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def _next(poller: _Poller, near: socket.socket) -> list[tuple[int, int]]:
    """What the hub gets: at every tick it registers its descriptors, then it polls."""
    async with asyncio.timeout(10):
        while True:
            poller.register(near, READ)
            if ready := poller.poll(0):
                return ready
            await asyncio.sleep(0.01)


@LOOPS
def test_a_connection_that_was_reset_is_readable(factory: Factory) -> None:
    """uvloop drops a descriptor that has an error, without a word; the next registration of it would raise."""
    near, far = _pair()

    async def watch() -> list[tuple[int, int]]:
        poller = _Poller()
        poller.register(near, READ)
        await asyncio.sleep(0)
        _reset(far)
        ready = await _next(poller, near)
        with pytest.raises(ConnectionResetError):
            near.recv(1)
        poller.unregister(near)
        return ready

    with asyncio.Runner(loop_factory=factory) as runner, near:
        assert runner.run(watch()) == [(near.fileno(), READ)]


def test_a_number_that_belongs_to_another_socket_now_is_watched() -> None:
    near, far = _pair()
    fd = near.fileno()

    async def watch() -> list[tuple[int, int]]:
        poller = _Poller()
        poller.register(near, READ)
        _reset(far)
        for _ in range(20):
            await asyncio.sleep(0.01)
        made, peer = _pair()
        os.dup2(made.fileno(), fd)  # closes what had the number
        with made, peer, near as other:
            poller.poll(0)
            poller.register(other, READ)
            assert poller.poll(0) == [], "nothing came yet"
            peer.send(b"x")
            ready = await _next(poller, other)
            poller.unregister(other)
        return ready

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(watch()) == [(fd, READ)]
