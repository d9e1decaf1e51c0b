"""Synchronous code on the event loop: interrupted, left early, and at the end of the interpreter."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator

import pytest

from dynamo_tasks.store.bridge import Bridge, bridge
from tests.support.processes import ROOT


def test_values_come_in_order_and_the_source_is_closed() -> None:
    closed = threading.Event()

    async def source() -> AsyncIterator[int]:
        try:
            for i in range(5):
                yield i
        finally:
            closed.set()

    assert list(Bridge().iterate(source())) == [0, 1, 2, 3, 4]
    assert closed.is_set()


def test_leaving_early_closes_the_source() -> None:
    closed = threading.Event()

    async def source() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    values = Bridge().iterate(source())
    assert next(values) == 1
    values.close()  # type: ignore[attr-defined]
    assert closed.is_set()


def test_a_call_on_the_bridges_own_loop_is_refused() -> None:
    bridge = Bridge()

    async def nothing() -> None:
        return None

    async def inside() -> None:
        bridge.call(nothing())

    with pytest.raises(RuntimeError, match="use await"):
        bridge.call(inside())


def test_a_call_that_takes_too_long_is_cancelled() -> None:
    cancelled = threading.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        Bridge().call(slow(), 0.01)
    assert cancelled.wait(2)


_SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
import asyncio
from dynamo_tasks.store.bridge import bridge

async def source():
    yield 1
    await asyncio.Event().wait()

values = bridge().iterate(source())
print(next(values))
{last}
"""


_INTERRUPTED = """
import os, signal, threading
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
next(values)
"""


# The signal is received by a thread that is not the one which waits.
_INTERRUPTED_ELSEWHERE = _INTERRUPTED.replace(
    "os.kill(os.getpid(), signal.SIGINT)", "signal.pthread_kill(threading.get_ident(), signal.SIGINT)"
)


@pytest.mark.parametrize(
    "last", ["", _INTERRUPTED, _INTERRUPTED_ELSEWHERE], ids=["open", "interrupted", "interrupted-elsewhere"]
)
def test_a_script_ends_with_an_open_stream(last: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(last=last)],
        cwd=ROOT,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.stdout == b"1\n"
    assert (b"KeyboardInterrupt" in done.stderr) is bool(last)


def test_a_forked_child_has_a_bridge_of_its_own() -> None:
    async def answer() -> int:
        return 7

    parent = bridge()
    assert parent.call(answer()) == 7
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = bridge().call(answer(), timeout=5) if bridge() is not parent else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert bridge() is parent
