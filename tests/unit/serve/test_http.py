import asyncio
import socket
from typing import Any

import pytest

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.serve import http
from dynamo_tasks.serve.planning.ports import check_port, free_port


def ask(answer: bytes, **options: Any) -> tuple[tuple[int, Any], bytes]:
    async def main() -> tuple[tuple[int, Any], bytes]:
        seen = asyncio.Queue[bytes]()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.put_nowait(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            found = await http.get("0.0.0.0", port, "/ready", **options)
            return found, await seen.get()

    return asyncio.run(main())


def test_get() -> None:
    found, request = ask(
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"data": []}', api_key="k"
    )
    assert found == (200, {"data": []})
    assert request.startswith(b"GET /ready HTTP/1.0\r\nHost: 127.0.0.1\r\n")
    assert b"\r\nAuthorization: Bearer k\r\n" in request


@pytest.mark.parametrize(
    ("answer", "found"),
    [(b"HTTP/1.1 503 No\r\n\r\nbusy", (503, None)), (b"", (0, None)), (b"junk", (0, None))],
)
def test_other_answers(answer: bytes, found: tuple[int, Any]) -> None:
    assert ask(answer)[0] == found


def test_nobody_answers() -> None:
    port = free_port("127.0.0.1")
    assert port
    assert asyncio.run(http.get("127.0.0.1", port, "/ready")) == (0, None)


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80"), ("box", "http://box:80")],
)
def test_base_url(host: str, url: str) -> None:
    assert http.base_url(host, 80) == url


def test_a_taken_port_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} on 127\.0\.0\.1 is in use; .* --port"):
            check_port("127.0.0.1", port)
    assert check_port("127.0.0.1", 0) > 0


def test_a_foreign_address_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"--host 192\.0\.2\.1 --port 80"):
        check_port("192.0.2.1", 80)
