"""kombu's hub on uvloop."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest
import uvloop
from kombu.asynchronous.timer import Timer
from kombu.utils.eventio import READ

from dynamo_tasks.queue import greenlets
from dynamo_tasks.queue.broker.hub import AsyncioHub, _Poller
from tests.support.promises import in_time

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


async def _tick(ticks: list[int]) -> None:
    before = ticks[0]
    async with asyncio.timeout(10):
        while ticks[0] == before:
            await asyncio.sleep(0.01)


def _fired(arm: Callable[[AsyncioHub, Callable[[], None]], None]) -> tuple[float, int]:
    """Seconds until a timer that is armed beside the hub's ticks fires, and the ticks of half a second without any."""

    async def watch() -> tuple[float, int]:
        hub, fired, ticks = AsyncioHub(Timer(max_interval=10.0)), asyncio.Event(), [0]
        hub.on_tick.add(lambda: ticks.__setitem__(0, ticks[0] + 1))
        hub.add_reader(near, int)
        host = asyncio.ensure_future(greenlets.run(hub.run_forever))
        await _tick(ticks)
        before = ticks[0]
        await asyncio.sleep(0.5)
        idle = ticks[0] - before
        await _tick(ticks)  # what is armed now finds the longest wait
        began = time.monotonic()
        arm(hub, fired.set)
        async with asyncio.timeout(10):
            await fired.wait()
        took = time.monotonic() - began
        hub.stop()
        await host
        hub.close()
        return took, idle

    near, far = _pair()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, near, far:
        return runner.run(watch())


def _in_thread(hub: AsyncioHub, call: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    threading.Thread(target=hub.call_later, args=(0.05, loop.call_soon_threadsafe, call)).start()


def _after_a_later_one(hub: AsyncioHub, call: Callable[[], None]) -> None:
    hub.call_later(0.5, int)
    hub.call_later(0.05, call)


def _eleventh(hub: AsyncioHub, call: Callable[[], None]) -> None:
    for _ in range(10):
        hub.call_later(0.05, int)
    hub.call_later(0.05001, call)


def _beside_one_that_is_off(hub: AsyncioHub, call: Callable[[], None]) -> None:
    """kombu arms its health checks with the interval 0 where they are off."""
    hub.call_repeatedly(0, int)
    hub.call_later(0.05, call)


@pytest.mark.parametrize("arm", [_in_thread, _after_a_later_one, _eleventh, _beside_one_that_is_off])
def test_a_timer_fires_when_it_is_due(arm: Callable[..., None]) -> None:
    idle: list[int] = []

    def measure() -> float:
        took, ticks = _fired(arm)
        idle.append(ticks)
        return took

    in_time(measure, 0.4)
    assert max(idle) == 0, "nothing is polled for"
