"""Many clients, and clients that take nothing, at a real frontend: its memory, and what the others feel of it."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks.frontend.http.server import allow_many_files
from tests.support.processes import Frontend, Worker, together, until
from tests.support.server import RedisServer
from tests.support.streams import Place

STREAMS, REQUESTS = 10_000, 500
ASK: dict[str, Any] = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": "one two"}]}
MIB = 1 << 20


def rss(process: Frontend) -> int:
    """Resident memory, bytes."""
    pages = int((Path("/proc") / str(process.pid) / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def head(method: str, path: str, body: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_thousand_idle_streams(
    redis_server: RedisServer, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each holds little, and a new request is answered as if they were not there."""
    allow_many_files()
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < STREAMS + 200:
        pytest.skip(f"a process may not open {STREAMS} sockets here (ulimit -Hn)")
    env = {"DYNAMO_NAMESPACE": "idle"}
    with together(
        Worker(redis_server.url, env=env),
        Frontend(redis_server.url, env=env),
    ) as (_, frontend):
        for _ in range(20):
            _ttft(frontend)
        before, alone = rss(frontend), statistics.median(_ttft(frontend) for _ in range(20))
        found = {}

        @on_loop_for(240)
        async def hold() -> None:
            async with Place(redis_server.url) as place:
                held = await _open_streams(place, frontend)
                found["rss"] = rss(frontend)
                found["ttft"] = statistics.median(
                    [await asyncio.to_thread(_ttft, frontend) for _ in range(20)]
                )
                for writer in held:
                    writer.transport.abort()

        hold()
        each = (found["rss"] - before) / STREAMS
        with capsys.disabled():
            print(f"\n{STREAMS} idle streams: {each / 1024:.1f} KiB each; TTFT {found['ttft'] * 1000:.1f} ms "
                  f"(alone {alone * 1000:.1f} ms)")  # fmt: skip
        assert each < 64 * 1024
        assert found["ttft"] < 0.1 + 5 * alone
        until(lambda: _ttft(frontend) < 1, 30, "it serves on when they have left")


def on_loop_for(seconds: float) -> Any:
    """Run a coroutine function with a limit of its own."""

    def wrapped(work: Any) -> Any:
        return lambda: asyncio.run(asyncio.wait_for(work(), seconds))

    return wrapped


async def _open_streams(place: Place, frontend: Frontend) -> list[asyncio.StreamWriter]:
    """Readers of requests that run and say nothing, as many on each."""
    owner = await place.owner()
    requests = [await place.submit(background=True) for _ in range(REQUESTS)]
    for request in requests:
        await owner.run(request)
    held: list[asyncio.StreamWriter] = []
    for start in range(0, STREAMS, 100):
        held += await asyncio.gather(*(
            _reader(frontend, requests[n % REQUESTS]) for n in range(start, start + 100)
        ))  # fmt: skip
    return held


async def _reader(frontend: Frontend, request: str) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection("127.0.0.1", frontend.port)
    writer.write(head("GET", f"/v1/requests/{request}/stream"))
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return writer


def _ttft(frontend: Frontend) -> float:
    """Seconds until the first event of a new request."""
    began = time.monotonic()
    stream = frontend.events("POST", "/v1/chat/completions", ASK)
    next(stream)
    took = time.monotonic() - began
    stream.close()  # type: ignore[attr-defined]
    return took


@pytest.mark.slow
def test_a_client_that_does_not_read_costs_a_buffer_and_loses_nothing(redis_server: RedisServer) -> None:
    env = {"DYNAMO_NAMESPACE": "lazy"}
    settings = ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=0")
    url, tokens = redis_server.url, 30_000
    with together(
        Worker(url, settings=settings, env=env),
        Frontend(url, env=env),
    ) as (_, frontend):
        frontend.request(
            "POST", "/v1/chat/completions", ASK | {"model": "mocker", "max_tokens": 500, "stream": False}
        )
        before = rss(frontend)
        body = json.dumps(ASK | {"model": "mocker", "max_tokens": tokens}).encode()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(60)
            client.connect(("127.0.0.1", frontend.port))
            client.sendall(head("POST", "/v1/chat/completions", body))
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += client.recv(100)
            request = answer.partition(b"x-request-id: ")[2].split(b"\r\n")[0].decode()
            until(
                lambda: frontend.get(f"/v1/requests/{request}")[1]["status"] == "succeeded",
                45,
                "the engine is done",
            )
            grown = rss(frontend) - before
            while not answer.endswith(b"0\r\n\r\n"):
                answer += client.recv(65536)
        assert grown < 64 * MIB, f"{grown / MIB:.0f} MiB"
        assert b"data: [DONE]" in answer
        assert answer.count(b"id: ") > 10
        text = frontend.events("GET", f"/v1/requests/{request}/stream")
        assert _content(data for _, data in text) == _content(_datas(answer))


def _datas(answer: bytes) -> list[str]:
    """The data of the events in a chunked answer."""
    raw, body = answer.partition(b"\r\n\r\n")[2], b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        body, raw = body + raw[: int(size, 16)], raw[int(size, 16) + 2 :]
    return [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]


def _content(datas: Any) -> str:
    chunks = [json.loads(data) for data in datas if data != "[DONE]"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
