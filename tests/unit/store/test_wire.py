"""The options of a connection's socket."""

from __future__ import annotations

import asyncio
import socket

from dynamo_tasks.store.wire import Address, Wire
from tests.support.server import RedisServer


def test_a_vanished_server_is_noticed_by_the_kernel(redis_server: RedisServer) -> None:
    async def options() -> tuple[int, int]:
        wire = await Wire.connect(Address.parse(redis_server.url))
        assert wire._transport is not None
        sock = wire._transport.get_extra_info("socket")
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
