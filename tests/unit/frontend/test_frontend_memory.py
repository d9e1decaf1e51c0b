"""What an answered request leaves behind: nothing that waits for the garbage collector.

A circle of references that outlives a young collection stays until the oldest generation is looked at; under load, that
is memory which grows.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dynamo_tasks.errors import QueueFullError
from dynamo_tasks.frontend.http.server import HttpServer
from tests.support.frontend_fakes import FakeGateway, chat, claim, failed, served, text, uvicorn_of

REQUESTS = 5
OURS = {"GuardedProtocol", "RequestResponseCycle", "Call", "ScriptedStream", "Submission"}


@contextmanager
def found_in_circles() -> Iterator[Counter[str]]:
    """Types of what only the garbage collector could free, of those made inside the block."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.freeze()  # what the process has anyway
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found.update(type(one).__name__ for one in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()


async def _ask(server: HttpServer, head: str, body: bytes, *, leave: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    lines = f"{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(lines.encode() + body)
    if leave:
        await reader.readuntil(b"data: ")
    else:
        await reader.read()
    writer.close()
    await writer.wait_closed()


def _chat(**fields: Any) -> tuple[str, bytes]:
    return "POST /v1/chat/completions", json.dumps(chat(**fields)).encode()


ANSWERED = {
    "streamed": _chat(stream=True),
    "whole": _chat(),
    "not valid": _chat(temperature=9),
    "no model": _chat(model="none"),
    "not found": ("GET /v1/requests/none", b""),
    "models": ("GET /v1/models", b""),
}


@pytest.mark.parametrize("kind", ANSWERED)
def test_an_answered_request_leaves_no_circle(kind: str) -> None:
    assert _circles(FakeGateway(), *ANSWERED[kind]) == {}


@pytest.mark.parametrize("kind", ["streamed", "whole"])
def test_one_that_failed_or_was_refused_leaves_none(kind: str) -> None:
    gateway = FakeGateway(lambda submission: [claim(), failed(1, "endpoint_error", "no")])
    assert _circles(gateway, *ANSWERED[kind]) == {}
    gateway.refusal = QueueFullError("full", retry_after=1.0)
    assert _circles(gateway, *ANSWERED[kind]) == {}


def test_a_client_that_left_leaves_none() -> None:
    gateway = FakeGateway(lambda submission: [claim(), text(1, "a")])
    assert _circles(gateway, *ANSWERED["streamed"], leave=True) == {}


def _circles(gateway: FakeGateway, head: str, body: bytes, *, leave: bool = False) -> dict[str, int]:
    async def main() -> dict[str, int]:
        async with served(gateway) as server:
            await _ask(server, head, body, leave=leave)  # imports, caches
            with found_in_circles() as found:
                for _ in range(REQUESTS):
                    await _ask(server, head, body, leave=leave)
                    gateway.streams.clear()
                    gateway.logs.clear()
                    gateway.submissions.clear()
                await _quiet(server)
            return {name: count for name, count in found.items() if name in OURS}

    return asyncio.run(main())


async def _quiet(server: HttpServer) -> None:
    """Until the server has seen that its clients are gone."""
    state = uvicorn_of(server).server_state
    while state.connections or state.tasks:
        await asyncio.sleep(0.001)
    for _ in range(3):
        await asyncio.sleep(0)
