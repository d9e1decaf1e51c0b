"""The options of a connection's socket."""

from __future__ import annotations

import asyncio
import socket

import pytest

from dynamo_tasks.errors import ConfigError, ServerRefusedError, ServerUnavailableError
from dynamo_tasks.store.redis.address import Address
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.redis.wire import Wire, pack
from tests.support.server import RedisServer


def test_a_vanished_server_is_noticed_by_the_kernel(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    transports: list[asyncio.BaseTransport] = []
    made = Wire.connection_made

    def noted(wire: Wire, transport: asyncio.BaseTransport) -> None:
        transports.append(transport)
        made(wire, transport)

    monkeypatch.setattr(Wire, "connection_made", noted)

    async def options() -> tuple[int, int]:
        wire = await Wire.connect(Address.parse(redis_server.url))
        sock = transports[0].get_extra_info("socket")
        found = (
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        )
        wire.close()
        return found

    assert asyncio.run(options()) == (1, 5000)


def test_the_password_of_an_address_is_not_shown() -> None:
    address = Address.parse("redis://user:secret@127.0.0.1:6379/2")
    assert "secret" not in repr(address) + str(address)
    assert (address.username, address.password, address.db) == ("user", "secret", 2)


def test_a_server_of_another_kind_is_reported_in_one_line() -> None:
    async def connect() -> str:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ServerUnavailableError) as caught:
            await Wire.connect(Address.parse(f"redis://127.0.0.1:{port}"))
        server.close()
        return caught.value.message

    assert "not a Redis server" in asyncio.run(connect())


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{}", "redis://me:secret@127.0.0.1:{}/3"])
@pytest.mark.parametrize("after", [0.0, 0.2])
def test_a_refusal_before_any_question_is_its_error(url: str, after: float) -> None:
    """As a server that has no room left says it: unasked, and closes."""

    async def connect() -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(after)
            writer.write(b"-ERR max number of clients reached\r\n")
            writer.close()

        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ServerRefusedError):
                await Wire.connect(Address.parse(url.format(port)))

    asyncio.run(connect())


def test_an_answer_to_nothing_is_a_lost_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def talk() -> str:
        async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(b"+OK\r\n+and\r\n+more\r\n")
            await reader.read(100)
            writer.close()

        async with await asyncio.start_server(chatter, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            wire = await Wire.connect(Address.parse(f"redis://127.0.0.1:{port}"))
            with pytest.raises(ServerUnavailableError) as caught:
                await wire.execute("GET", "k")
            return caught.value.message

    assert "lost" in asyncio.run(talk())
    assert "IndexError" not in caplog.text


def test_a_server_that_became_a_replica_is_a_lost_connection(own_server: RedisServer) -> None:
    async def write() -> tuple[list[str], bool]:
        wire = await Wire.connect(Address.parse(own_server.url))
        own_server.command("REPLICAOF", "127.0.0.1", "1")
        asked = (
            wire.execute("GET", "k"),
            wire.execute("SET", "k", 1),
            wire.transaction([pack(("SET", "k", 1))]),
        )
        said = [str(one) for one in await asyncio.gather(*asked, return_exceptions=True)]
        return said, wire.closed

    said, closed = asyncio.run(write())
    assert said[0] == "None"
    assert said[1] == said[2] == "connection to the Redis server lost: the server has become a replica"
    assert closed


def test_a_server_that_evicts_is_refused_at_start(own_server: RedisServer) -> None:
    own_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigError, match="maxmemory-policy 'allkeys-lru', which loses requests"):
        asyncio.run(Store.connect(own_server.url))


def test_a_replica_is_refused_at_start(own_server: RedisServer) -> None:
    own_server.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(ServerRefusedError, match="is a replica"):
        asyncio.run(Store.connect(own_server.url))
