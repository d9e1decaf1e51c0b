"""One connection to a Redis server, as an asyncio protocol: RESP2, pipelined, packed by hiredis.

A :class:`Wire` is one socket. It never reconnects and never repeats a command; who owns it decides
what a lost reply means. Packing by hand costs 3 to 5 µs per command where a client library's
pipeline costs about 25.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import hiredis

from dynamo_tasks.errors import DynamoError, ServerRefusedError, ServerUnavailableError
from dynamo_tasks.store.bridge import in_thread
from dynamo_tasks.store.redis.address import Address
from dynamo_tasks.store.redis.containment import pass_over
from dynamo_tasks.store.redis.refusals import ReplyError, refusal

__all__ = ["CONNECT_TIMEOUT", "ReplyError", "Wire", "notice_loss", "pack"]

Command = Sequence[str | bytes | int | float]
Reply = Any
CONNECT_TIMEOUT = 5.0
"""Seconds for a connection, from the socket to the chosen database."""
pack = cast("Callable[[tuple[Any, ...]], bytes]", hiredis.pack_command)
"""A command as Redis reads it; hiredis declares tuples of one."""


class Wire(asyncio.Protocol):
    """A pipelined connection.

    Args:
        on_message: Called with each pub/sub message ``(channel, payload)``; makes this a subscriber.
        on_lost: Called once when the connection is gone.
    """

    def __init__(
        self,
        on_message: Callable[[bytes, bytes], None] | None = None,
        on_lost: Callable[[Wire], None] | None = None,
    ):
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._waiting: deque[tuple[asyncio.Future[Reply], int]] = deque()
        self._gathered: list[Reply] = []
        self._outgoing: list[bytes] = []
        self._lost_because = ""
        self._refused: DynamoError | None = None
        self._on_message = on_message
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self.closed = False

    @classmethod
    async def connect(
        cls,
        address: Address,
        *,
        name: str = "dynamo-tasks",
        on_message: Callable[[bytes, bytes], None] | None = None,
        on_lost: Callable[[Wire], None] | None = None,
        timeout: float = CONNECT_TIMEOUT,
    ) -> Wire:
        """Open a connection, authenticate, choose the database.

        Raises:
            ServerUnavailableError: nobody listens, or no answer within ``timeout`` seconds.
            ServerRefusedError: Redis has no room for it, or is not ready.
            ReplyError: Redis refuses the credentials or the database.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                if address.path:
                    _, wire = await loop.create_unix_connection(
                        lambda: cls(on_message, on_lost), address.path
                    )
                else:
                    wire = await _reached(address, lambda: cls(on_message, on_lost))
                await wire._hello(address, name)
        except ServerRefusedError:
            raise
        except (OSError, TimeoutError) as exc:
            raise ServerUnavailableError(
                f"cannot reach the Redis server at {address}: {str(exc) or 'no answer'}"
            ) from exc
        return wire

    async def _hello(self, address: Address, name: str) -> None:
        commands: list[Command] = []
        if address.password:
            commands.append(["AUTH", *([address.username] if address.username else []), address.password])
        commands.append(["CLIENT", "SETNAME", name])
        if address.db:
            commands.append(["SELECT", address.db])
        try:
            for reply in await self.pipeline(commands):
                if isinstance(reply, hiredis.ReplyError):
                    raise refusal(str(reply))
        except ServerUnavailableError:
            self.close()
            # Part of the answer may be all that came: why the connection was refused.
            for reply in self._gathered:
                if isinstance(reply, hiredis.ReplyError):
                    raise refusal(str(reply)) from None
            raise
        except BaseException:
            self.close()
            raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio callback."""
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in notice_loss().items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        """Asyncio callback."""
        reader = self._reader
        reader.feed(data)
        try:
            self._take_replies()
        except hiredis.ProtocolError as exc:
            # Not a Redis server, or not in step any more: nothing that follows can be trusted.
            self._lost_because = f"not a Redis server: {exc}"
            self.abort()

    def _take_replies(self) -> None:
        reader = self._reader
        while (reply := reader.gets()) is not _MORE:
            if type(reply) is hiredis.ReplyError and str(reply).startswith("READONLY"):
                # A failover made it a replica: what waits here will not be done; the next one finds the master.
                self._lost_because = "the server has become a replica"
                self.abort()
                return
            if self._on_message is not None and type(reply) is list and reply[0] == b"message":
                try:
                    self._on_message(reply[1], reply[2])
                except Exception as exc:  # noqa: BLE001 - anybody publishes anything: it must not end the connection
                    pass_over("pubsub", reply[1].decode(errors="replace"), exc)
            elif self._waiting:
                self._answer(reply)
            else:
                self._take_unasked(reply)
                return

    def _take_unasked(self, reply: Reply) -> None:
        """Take a reply to no command: Redis sends one before it closes, e.g. at ``maxclients``."""
        if isinstance(reply, hiredis.ReplyError):
            self._refused = refusal(str(reply))
        self._lost_because = "it sent an answer to nothing"
        self.abort()

    def _answer(self, reply: Reply) -> None:
        # In the order of the commands. Who gave up still has his place here: his reply is thrown away.
        future, count = self._waiting[0]
        if count == 1:
            self._waiting.popleft()
            if not future.done():
                future.set_result(reply)
            return
        self._gathered.append(reply)
        if len(self._gathered) == count:
            self._waiting.popleft()
            replies, self._gathered = self._gathered, []
            if not future.done():
                future.set_result(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio callback."""
        if self.closed and self._transport is None:
            return
        self.closed = True
        self._transport = None
        reason = self._lost_because or exc
        error = ServerUnavailableError(
            f"connection to the Redis server lost{f': {reason}' if reason else ''}"
        )
        while self._waiting:
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(error)
                future.exception()  # retrieved: nobody awaits the reply of what was posted
        if self._on_lost is not None:
            self._on_lost(self)

    def _write(self, data: bytes, replies: int) -> asyncio.Future[Reply]:
        if self.closed or self._transport is None:
            raise self._refused or ServerUnavailableError("connection to the Redis server lost")
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting.append((future, replies))
        self._outgoing.append(data)
        if len(self._outgoing) == 1:
            # What is sent within one turn of the loop goes out in one write.
            self._loop.call_soon(self._send)
        return future

    def _send(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self._transport is not None:
            self._transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))

    async def execute(self, *command: str | bytes | int | float) -> Reply:
        """Send one command and return its reply.

        Raises:
            ReplyError: Redis answered with an error.
            ServerRefusedError: it refuses the command for the moment, and has not run it.
            ServerUnavailableError: the connection was lost; whether the command ran is not known.
        """
        reply = await self._write(pack(tuple(command)), 1)
        if isinstance(reply, hiredis.ReplyError):
            raise refusal(str(reply))
        return reply

    async def pipeline(self, commands: Iterable[Command]) -> list[Reply]:
        """Send commands at once and return all replies; errors are returned in their places."""
        packed = [pack(tuple(command)) for command in commands]
        if not packed:
            return []
        reply = await self._write(b"".join(packed), len(packed))
        return [reply] if len(packed) == 1 else reply

    async def ask(self, commands: Iterable[Command]) -> list[Reply]:
        """Send commands at once and return all replies.

        Raises:
            ReplyError: Redis answered one with an error.
            ServerRefusedError: it refuses one for the moment.
        """
        replies = await self.pipeline(commands)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise refusal(str(reply))
        return replies

    async def transaction(self, packed: list[bytes]) -> list[Reply]:
        """Send already packed commands between MULTI and EXEC and return EXEC's list.

        Raises:
            ReplyError: Redis refused to run the transaction at all.
            ServerRefusedError: for the moment, e.g. because its memory is full.
        """
        data = b"".join((_MULTI, *packed, _EXEC))
        # MULTI and each command have a reply of their own; what was done stands in that of EXEC.
        replies = await self._write(data, len(packed) + 2)
        result = replies[-1]
        if isinstance(result, hiredis.ReplyError):
            reasons = [str(r) for r in replies[:-1] if isinstance(r, hiredis.ReplyError)]
            raise refusal("; ".join(reasons) or str(result))
        return list(result)

    def post(self, *command: str | bytes | int | float) -> None:
        """Send one command whose reply nobody waits for."""
        with contextlib.suppress(ServerUnavailableError):
            self._write(pack(tuple(command)), 1)

    def close(self) -> None:
        """Close the socket; idempotent. What was posted before is still sent."""
        self.closed = True
        if self._transport is not None:
            if self._outgoing:
                self._send()
            self._transport.close()

    def abort(self) -> None:
        """Close the socket at once, losing what was not sent."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()


async def _reached(address: Address, make: Callable[[], Wire]) -> Wire:
    """A connection to the first of a name's addresses that takes one.

    The name is looked up in a thread of its own: where the DNS keeps silent, the few of the loop would all wait for it,
    and the end of the program for them.
    """
    tls = address.tls.context() if address.tls else None
    host, port, error = address.host, address.port, OSError("it has no address")
    for *_, found in await in_thread(lambda _: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)):
        try:
            _, wire = await asyncio.get_running_loop().create_connection(
                make, str(found[0]), port, ssl=tls, server_hostname=host if tls else None
            )
        except OSError as exc:
            error = exc
        else:
            return wire
    raise error


def notice_loss() -> dict[int, int]:
    """TCP options by which the kernel gives up a peer that vanished without a word within seconds, not hours."""
    wanted = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 5000}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


_MORE: Any = object()
_MULTI = pack(("MULTI",))
_EXEC = pack(("EXEC",))
