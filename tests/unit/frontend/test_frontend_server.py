"""A real server: streams over sockets, clients that leave, OpenAI's own client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import openai
import pytest

from dynamo_tasks.errors import ConfigError, ServerUnavailableError
from dynamo_tasks.frontend.http.server import HttpServer
from dynamo_tasks.frontend.settings import FrontendSettings
from tests.support.frontend_fakes import (
    EPOCH,
    USAGE,
    FakeGateway,
    chat,
    claim,
    end,
    failed,
    hello,
    served,
    sse,
    text,
    uvicorn_of,
)

CHAT = "/v1/chat/completions"
OPERATION_TIMEOUT = 10


def run(
    work: Callable[[HttpServer], Awaitable[Any]],
    gateway: FakeGateway | None = None,
    settings: FrontendSettings | None = None,
) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(OPERATION_TIMEOUT), served(gateway or FakeGateway(), settings) as server:
            return await work(server)

    return asyncio.run(main())


async def connect(
    server: HttpServer, body: dict[str, Any]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a chat request over a bare socket."""
    raw = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(server.host, server.port)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
    writer.write(head.encode() + raw)
    return reader, writer


@contextlib.asynccontextmanager
async def streaming(server: HttpServer) -> AsyncIterator[httpx.Response]:
    """The answer to a streaming chat completion, from its headers on."""
    async with (
        httpx.AsyncClient(base_url=server.url) as client,
        client.stream("POST", CHAT, json=chat(stream=True)) as response,
    ):
        yield response


async def leave(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


def test_openais_async_client() -> None:
    async def work(server: HttpServer) -> None:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0) as client:
            messages: Any = [{"role": "user", "content": "hi"}]
            whole = await client.chat.completions.create(model="tiny", messages=messages)
            assert whole.choices[0].message.content == "Hello, wörld!"
            assert whole.usage is not None
            assert whole.usage.total_tokens == 7
            parts = []
            stream = await client.chat.completions.create(
                model="tiny", messages=messages, stream=True, stream_options={"include_usage": True}
            )
            async for chunk in stream:
                parts += [choice.delta.content or "" for choice in chunk.choices]
            assert "".join(parts) == "Hello, wörld!"
            assert chunk.usage is not None
            texts = [
                part.choices[0].text
                async for part in await client.completions.create(model="tiny", prompt="hi", stream=True)
            ]
            assert "".join(texts) == "Hello, wörld!"
            with pytest.raises(openai.NotFoundError, match="served models: tiny"):
                await client.chat.completions.create(model="nope", messages=messages)
            with pytest.raises(openai.BadRequestError) as caught:
                await client.chat.completions.create(model="tiny", messages=messages, max_tokens=-1)
            assert caught.value.param == "max_tokens"
            assert caught.value.request_id

    run(work)


def test_openais_sync_client() -> None:
    def talk(url: str) -> None:
        with openai.OpenAI(base_url=url + "/v1", api_key="k", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["tiny", "vectors"]
            messages: Any = [{"role": "user", "content": "hi"}]
            chunks = list(client.chat.completions.create(model="tiny", messages=messages, stream=True))
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello, wörld!"
            assert chunks[-1].choices[0].finish_reason == "stop"
        with (
            openai.OpenAI(base_url=url + "/v1", api_key="other", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()

    run(lambda server: asyncio.to_thread(talk, server.url), settings=FrontendSettings(api_keys=("k",)))


def test_openais_client_gets_embeddings() -> None:
    async def work(server: HttpServer) -> None:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="x") as client:
            found = await client.embeddings.create(model="vectors", input=["a"])
            assert found.data[0].embedding == [0.5, -1.0]

    run(work, FakeGateway(lambda _: [claim(), end(1, values=[[[0.5, -1.0]]])]))


def test_openais_client_raises_what_a_stream_ends_with() -> None:
    async def work(server: HttpServer) -> None:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0) as client:
            messages: Any = [{"role": "user", "content": "hi"}]
            stream = await client.chat.completions.create(model="tiny", messages=messages, stream=True)
            with pytest.raises(openai.APIError, match="gone"):
                async for _ in stream:
                    pass

    run(work, FakeGateway(lambda _: [claim(), text(1, "a"), failed(2, "worker_lost", "gone")]))


def test_tokens_arrive_one_by_one() -> None:
    async def work(server: HttpServer) -> None:
        async with streaming(server) as response:
            log = gateway.logs[response.headers["x-request-id"]]
            blocks = response.aiter_text()
            assert sse(await anext(blocks))[0][1]["choices"][0]["delta"]["role"] == "assistant"
            for event in hello()[1:]:
                log.add(event)
                ((event_id, _),) = sse(await anext(blocks))
                assert event_id == str(event.id)
        assert gateway.streams[0].closed.is_set()

    gateway = FakeGateway(lambda _: [claim()])
    run(work, gateway, FrontendSettings(header_delay=0.01))


def test_headers_do_not_wait_for_a_queue() -> None:
    async def work(server: HttpServer) -> None:
        async with streaming(server) as response:
            gateway.logs[response.headers["x-request-id"]].add(*hello())
            assert sse(await response.aread())[-1][1] == "[DONE]"

    gateway = FakeGateway(lambda _: [])
    run(work, gateway, FrontendSettings(header_delay=0.01))


def test_a_silent_stream_is_kept_alive() -> None:
    async def work(server: HttpServer) -> None:
        async with streaming(server) as response:
            blocks = response.aiter_text()
            await anext(blocks)
            assert [await anext(blocks) for _ in range(3)] == [": keep-alive\n"] * 3
            gateway.logs[response.headers["x-request-id"]].add(*hello()[1:])
            rest = "".join([block async for block in blocks])
            assert sse(rest)[-1][1] == "[DONE]"

    gateway = FakeGateway(lambda _: [claim()])
    run(work, gateway, FrontendSettings(header_delay=0.01, keep_alive=0.02))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "events", [[], [claim()], [claim(), text(1, "a")]], ids=["queued", "claimed", "running"]
)
def test_a_client_that_leaves_is_noticed(stream: bool, events: list[Any]) -> None:
    async def work(server: HttpServer) -> None:
        _, writer = await connect(server, chat(stream=stream))
        await gateway.submitted.wait()
        await leave(writer)
        await gateway.streams[0].closed.wait()

    gateway = FakeGateway(lambda _: events)
    run(work, gateway)


def test_a_slow_reader_holds_up_its_own_stream_only() -> None:
    async def work(server: HttpServer) -> None:
        slow_reader, slow_writer = await connect(server, chat(stream=True))
        await gateway.submitted.wait()
        log = next(iter(gateway.logs.values()))
        pulled = gateway.streams[0]
        big = "x" * 100_000
        for seq in range(1, 201):
            log.add(text(seq, big))
            await asyncio.sleep(0)
        async with httpx.AsyncClient(base_url=server.url) as client:
            gateway.script = lambda _: hello()
            quick = await client.post(CHAT, json=chat(stream=True))
            assert sse(quick.text)[-1][1] == "[DONE]"
        assert pulled.position < len(log.events)  # what the client does not take is not fetched
        log.add(end(201, usage=USAGE))
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += await slow_reader.read(1 << 20)
        assert body.count(big.encode()) > 150  # the rest has chunk borders inside
        assert b"data: [DONE]" in body
        await leave(slow_writer)

    gateway = FakeGateway(lambda _: [claim()])
    run(work, gateway, FrontendSettings(header_delay=0))


def test_a_server_that_is_lost_midway_ends_the_stream_with_an_error() -> None:
    async def work(server: HttpServer) -> None:
        async with streaming(server) as response:
            blocks = response.aiter_text()
            await anext(blocks)
            gateway.streams[0].failure = ServerUnavailableError("Redis is gone")
            gateway.logs[response.headers["x-request-id"]].add(text(1, "a"))
            found = sse("".join([block async for block in blocks]))
            assert found[-2][1]["error"]["code"] == "server_unavailable"
            assert found[-1][1] == "[DONE]"

    gateway = FakeGateway(lambda _: [claim()])
    run(work, gateway, FrontendSettings(header_delay=0.01))


def test_a_second_frontend_goes_on_where_the_first_was_left() -> None:
    async def work(first: HttpServer) -> None:
        async with served(gateway) as second, httpx.AsyncClient() as client:
            async with client.stream("POST", first.url + CHAT, json=chat(stream=True)) as response:
                request_id = response.headers["x-request-id"]
                seen = sse(await anext(response.aiter_text()))
            await gateway.streams[0].closed.wait()
            gateway.logs[request_id].add(*hello()[3:])
            url = f"{second.url}/v1/requests/{request_id}/stream"
            rest = await client.get(url, headers={"last-event-id": f"{EPOCH}-2"})
            chunks = [data for _, data in seen + sse(rest.text) if data != "[DONE]"]
            assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "Hello, wörld!"
            assert {chunk["id"] for chunk in chunks} == {f"chatcmpl-{request_id}"}

    gateway = FakeGateway(lambda _: hello()[:3])
    run(work, gateway)


def test_a_huge_upload_gets_its_answer() -> None:
    async def work(server: HttpServer) -> None:
        async with httpx.AsyncClient(base_url=server.url) as client:
            response = await client.post(CHAT, content=b"x" * 3_000_000)
            assert response.status_code == 413
            assert response.json()["error"]["code"] == "payload_too_large"
            assert (await client.get("/live")).status_code == 200

    run(work, settings=FrontendSettings(body_limit=1_000_000))


def test_expect_100_is_refused_before_the_upload() -> None:
    async def work(server: HttpServer) -> bytes:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\nExpect: 100-continue\r\n\r\n"
        writer.write(head.encode())
        line = await reader.readline()
        await leave(writer)
        return line

    assert b" 413 " in run(work, settings=FrontendSettings(body_limit=1000))


def test_a_port_in_use_is_one_clear_line() -> None:
    async def main() -> None:
        async with served(FakeGateway()) as server:
            other = HttpServer(lambda *_: None, port=server.port)  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match=f"port {server.port} on 127.0.0.1 is in use") as caught:
                await other.start()
            assert "\n" not in caught.value.message
            await other.stop()

    asyncio.run(main())


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70000), ("no such host", 0), ("192.0.2.1", 0)])
def test_an_address_that_cannot_be_had_is_one_clear_line(host: str, port: int) -> None:
    with pytest.raises(ConfigError):
        asyncio.run(HttpServer(lambda *_: None, host, port).start())  # type: ignore[arg-type]


def test_two_servers_may_share_a_port() -> None:
    async def main() -> None:
        first = HttpServer(lambda *_: None, port=0, reuse_port=True)  # type: ignore[arg-type]
        await first.start()
        second = HttpServer(lambda *_: None, port=first.port, reuse_port=True)  # type: ignore[arg-type]
        await second.start()
        assert first.port == second.port
        await second.stop()
        await first.stop()
        await first.stop()

    asyncio.run(main())


def test_nagle_is_off_and_the_process_keeps_its_signals() -> None:
    async def work(server: HttpServer) -> None:
        (listener,) = uvicorn_of(server).servers[0].sockets
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert signal.getsignal(signal.SIGTERM) is before

    before = signal.getsignal(signal.SIGTERM)
    run(work)


def test_stop_does_not_wait_for_open_streams(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        gateway = FakeGateway(lambda _: [claim()])
        async with asyncio.timeout(OPERATION_TIMEOUT):
            async with served(gateway) as server:
                reader, writer = await connect(server, chat(stream=True))
                await reader.readline()
            assert gateway.streams[0].closed.is_set()
            assert not caplog.records
            assert b"[DONE]" not in await reader.read()
            await leave(writer)

    asyncio.run(main())
