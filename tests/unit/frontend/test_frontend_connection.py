"""Clients that misbehave, over raw sockets against a real HTTP server."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.frontend.http.connection import ConnectionLimits
from dynamo_tasks.frontend.http.server import HttpServer
from dynamo_tasks.frontend.settings import FrontendSettings
from tests.support.frontend_fakes import FakeGateway, chat, claim, hello, served, text, uvicorn_of

OPERATION_TIMEOUT = 20.0
SHORT = ConnectionLimits(head_timeout=0.2, body_timeout=0.2, write_timeout=0.3)
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
LIVE = b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n"

Work = Callable[[HttpServer], Awaitable[Any]]


def run(work: Work, limits: ConnectionLimits | None = None, gateway: FakeGateway | None = None) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(OPERATION_TIMEOUT):
            async with served(gateway or FakeGateway(), FrontendSettings(header_delay=0), limits) as server:
                result = await work(server)
                assert (await exchange(server, LIVE)).startswith(b"HTTP/1.1 200")  # nobody else is harmed
                return result

    return asyncio.run(main())


async def exchange(server: HttpServer, *parts: bytes, close: bool = True) -> bytes:
    """Send some bytes, then read until the server closes (or, with ``close=False``, what comes at once)."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if parts and parts[-1] is LIVE:
            return await reader.readuntil(b"}")
        return await reader.read(-1 if close else 65536)
    finally:
        writer.close()


def refusal(answer: bytes) -> tuple[int, str]:
    """Status and error code; the shape is OpenAI's."""
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert b"connection: close" in head
    return int(head.split()[1]), error["code"]


async def answers(server: HttpServer, cases: dict[str, list[bytes]]) -> dict[str, tuple[int, str] | None]:
    """What each of several connections at once is refused with; ``None`` = closed without a word."""
    found = await asyncio.gather(*(exchange(server, *parts) for parts in cases.values()))
    return {name: refusal(answer) if answer else None for name, answer in zip(cases, found, strict=True)}


def test_a_connection_that_says_nothing_is_closed() -> None:
    cases = {"nothing": [b""], "a line": [b"\r\n"], "lines": [b"\r\n\r\n"]}
    assert run(lambda server: answers(server, cases), SHORT) == dict.fromkeys(cases)


def test_half_a_request_is_answered_with_408() -> None:
    cases = {
        "a byte": [b"G"],
        "a line": [b"POST /v1"],
        "a head": [POST],
        "a header": [POST + b"x-a: b"],
        "a body": [POST + b"content-length: 100\r\n\r\nhello"],
        "a chunk": [POST + b"transfer-encoding: chunked\r\n\r\n5\r\nhello"],
        "nothing of a body": [POST + b"content-length: 100\r\n\r\n"],
    }
    assert run(lambda server: answers(server, cases), SHORT) == dict.fromkeys(cases, (408, "request_timeout"))


LORIS = {
    "in the body": (b"content-length: 9999\r\n\r\n", b"x"),
    "in the head": (b"", b"x-a: b\r\n"),
    "in the trailers": (b"transfer-encoding: chunked\r\n\r\n0\r\n", b"x-a: b\r\n"),
    "in a chunk's extension": (b"transfer-encoding: chunked\r\n\r\n5;", b"a"),
}


@pytest.mark.parametrize(("begin", "part"), LORIS.values(), ids=LORIS)
def test_a_slow_loris_is_cut_off(begin: bytes, part: bytes) -> None:
    """One small part at a time, each well within the time-out."""

    async def work(server: HttpServer) -> bytes:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(POST + begin)
        answer = asyncio.ensure_future(reader.read())
        while not answer.done():
            writer.write(part)
            await asyncio.wait([answer], timeout=0.02)
        writer.close()
        return answer.result()

    assert refusal(run(work, SHORT)) == (408, "request_timeout")


def test_a_body_that_comes_steadily_may_take_its_time() -> None:
    body = json.dumps(chat()).encode()

    async def work(server: HttpServer) -> bytes:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(POST + b"content-length: %d\r\n\r\n" % (len(body) + 2000))
        for _ in range(20):
            writer.write(b" " * 100)
            await asyncio.sleep(0.02)  # 0.4 s in all: more than the time-out, at a good rate
        writer.write(body)
        line = await reader.readline()
        writer.close()
        return line

    limits = ConnectionLimits(body_timeout=0.2, min_rate=500)
    assert run(work, limits).startswith(b"HTTP/1.1 200")


def test_floods_of_headers() -> None:
    cases = {
        "many headers": [POST, b"".join(b"x-%d: y\r\n" % n for n in range(200))],
        "many headers at once": [POST + b"a:b\r\n" * 50_000 + b"\r\n"],
        "large headers": [POST, *[b"x-%d: %b\r\n" % (n, b"y" * 4000) for n in range(20)], b"\r\n"],
        "an endless header": [POST, b"x-a: ", *[b"y" * 8192] * 100],
        "an endless header name": [POST, *[b"y" * 8192] * 100],
        "a long URL": [b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n"],
        "an endless URL": [b"GET /", *[b"a" * 8192] * 100],
    }
    expected = {
        name: (414, "uri_too_long") if "URL" in name else (431, "headers_too_large") for name in cases
    }
    assert run(lambda server: answers(server, cases)) == expected


CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "zeros": b"\x00" * 100,
    "bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
    "a bad version": b"GET / HTTP/9.9\r\n\r\n",
    "a bad method": b"GE T / HTTP/1.1\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nnothing\r\n\r\n",
    "a control character": b"GET / HTTP/1.1\r\nx: a\x01b\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nx : a\r\n\r\n",
    "connect": b"CONNECT host:443 HTTP/1.1\r\nhost: host\r\n\r\n",
    "a length that is none": POST + b"content-length: ten\r\n\r\n",
    "a negative length": POST + b"content-length: -1\r\n\r\n",
    "two lengths": POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "a length and chunks": POST + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown encoding": POST + b"transfer-encoding: chunked, x\r\n\r\n0\r\n\r\n",
    "a chunk size that is none": CHUNKED + b"xyz\r\nhello\r\n",
    "a negative chunk": CHUNKED + b"-5\r\nhello\r\n",
    "a huge chunk size": CHUNKED + b"fffffffffffffffffff\r\nhello\r\n",
    "a chunk without its end": CHUNKED + b"5\r\nhelloXX0\r\n\r\n",
}


def test_malformed_bytes_are_a_400() -> None:
    cases = {name: [sent] for name, sent in MALFORMED.items()}
    assert run(lambda server: answers(server, cases)) == dict.fromkeys(cases, (400, "malformed_request"))


def test_an_upgrade_is_not_followed() -> None:
    sent = b"GET /live HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n"
    assert run(lambda server: exchange(server, sent, close=False)).startswith(b"HTTP/1.1 200")


def test_a_client_that_never_reads_is_cut_off_and_its_stream_left() -> None:
    """The server keeps no more than a buffer for it; what it does not take stays in the log."""

    async def work(server: HttpServer) -> None:
        _, writer = await asyncio.open_connection(server.host, server.port, limit=1)
        body = json.dumps(chat(stream=True)).encode()
        writer.write(POST + b"content-length: %d\r\n\r\n" % len(body) + body)
        await gateway.submitted.wait()
        log, stream = next(iter(gateway.logs.values())), gateway.streams[0]
        seq = 0
        while not stream.closed.is_set():
            if stream.position == len(log.events):
                seq += 1
                log.add(text(seq, "x" * 100_000))
            await asyncio.sleep(0.001)
        writer.close()

    gateway = FakeGateway(lambda _: [claim()])
    run(work, SHORT, gateway)


def test_a_reset_in_midstream_is_noticed_also_with_requests_behind_it() -> None:
    async def work(server: HttpServer) -> None:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        body = json.dumps(chat(stream=True)).encode()
        one = POST + b"content-length: %d\r\n\r\n" % len(body) + body
        writer.write(one + one)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
        await gateway.streams[0].closed.wait()
        assert len(gateway.streams) == 1

    gateway = FakeGateway(lambda _: [claim(), text(1, "a")])
    run(work, gateway=gateway)


@pytest.mark.parametrize("stream", [True, False])
def test_one_that_has_closed_all_of_a_silent_connection_is_noticed(stream: bool) -> None:
    """It looks like one that has closed its own side only, until something is written to it."""

    async def work(server: HttpServer) -> None:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        body = json.dumps(chat(stream=stream)).encode()
        writer.write(POST + b"content-length: %d\r\n\r\n" % len(body) + body)
        await gateway.submitted.wait()
        if stream:
            await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await gateway.streams[0].closed.wait()

    gateway = FakeGateway(lambda _: [claim()])
    run(work, gateway=gateway)


@pytest.mark.parametrize("stream", [True, False])
def test_one_that_has_closed_its_own_side_is_probed_and_waited_for(stream: bool) -> None:
    async def work(server: HttpServer) -> bytes:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        body = json.dumps(chat(stream=stream)).encode()
        writer.write(POST + b"content-length: %d\r\n\r\n" % len(body) + body)
        writer.write_eof()
        probe = b": keep-alive\n" if stream else b"100 Continue\r\n\r\n"
        found = await reader.readuntil(probe) + await reader.readuntil(probe)
        gateway.logs[next(iter(gateway.logs))].add(*hello()[1:])
        rest = await reader.read()
        writer.close()
        return found + rest

    gateway = FakeGateway(lambda _: [claim()])
    answer = run(work, ConnectionLimits(probe=0.1), gateway)
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n" if stream else b"}")
    assert b" 200 OK" in answer


def test_a_client_that_vanished_without_a_word_is_noticed_by_the_kernel() -> None:
    """What it has not acknowledged, or an idle connection to it, is given up (tests/fault/test_machines: it is)."""

    async def work(server: HttpServer) -> list[int]:
        _, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(LIVE[:10])
        connections = uvicorn_of(server).server_state.connections
        while not connections:
            await asyncio.sleep(0.001)
        (connection,) = connections
        sock = connection.transport.get_extra_info("socket")
        found = [
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        ]
        writer.close()
        return found

    assert run(work, ConnectionLimits(write_timeout=20)) == [1, 20_000, 10]


def test_requests_do_not_pile_up_behind_a_stream() -> None:
    async def work(server: HttpServer) -> None:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        body = json.dumps(chat(stream=True)).encode()
        writer.write(POST + b"content-length: %d\r\n\r\n" % len(body) + body)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(LIVE * 1000)
        await gateway.streams[0].closed.wait()
        writer.close()

    gateway = FakeGateway(lambda _: [claim(), text(1, "a")])
    run(work, gateway=gateway)


def test_limits_are_checked() -> None:
    with pytest.raises(ConfigError, match="head_timeout must be more than 0, not 0"):
        ConnectionLimits(head_timeout=0)
