"""A connection that comes back: reconnects with jittered backoff, and calls ``on_ready`` on each new one.

A :class:`Link` repeats no command. A command on a lost connection fails with
:class:`ServerUnavailableError`; scripts are idempotent (by nonce or by state), so their callers may ask again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from types import TracebackType

from dynamo_tasks.errors import DynamoError, ServerUnavailableError
from dynamo_tasks.observe import metrics
from dynamo_tasks.observe.log import event
from dynamo_tasks.observe.throttle import LogThrottle
from dynamo_tasks.protocol.jitter import jittered
from dynamo_tasks.store.redis import sentinel
from dynamo_tasks.store.redis.address import Address
from dynamo_tasks.store.redis.refusals import code_of, refusal
from dynamo_tasks.store.redis.wire import CONNECT_TIMEOUT, Reply, Wire

__all__ = ["OPERATION_TIMEOUT", "Link", "in_time"]

OPERATION_TIMEOUT = 10.0
"""Seconds that a server may take to answer one operation of a client."""
Ready = Callable[[Wire], Awaitable[None]]
_FIRST_DELAY, _MAX_DELAY = 0.05, 0.5
_CONNECT_SECONDS = 2.0
"""Seconds for one attempt to reconnect: what gets no answer now may get one at the next one."""
_FAR = 3.0
"""Times what the first connect took: a server that is far away gets longer."""

_READY = 20.0
"""Seconds for all that is asked on a new connection before it is used."""


class Link:
    """Keeps one :class:`Wire` open.

    Args:
        address: Redis.
        name: Name of the connection, as ``CLIENT LIST`` shows it.
        on_ready: Awaited on every new connection before anybody may use it.
        on_message: Makes the connection a subscriber.
    """

    def __init__(
        self,
        address: Address,
        *,
        name: str,
        on_ready: Ready | None = None,
        on_message: Callable[[bytes, bytes], None] | None = None,
    ):
        self.address = address
        self._name = name
        self._on_ready = on_ready
        self._on_message = on_message
        self._wire: Wire | None = None
        self._up = asyncio.Event()
        self._closing = False
        self._keeper: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._connect_within = _CONNECT_SECONDS
        self.reconnects = 0

    @property
    def kind(self) -> str:
        """Its purpose: ``writer``, ``reader``, …; its name without the project and an instance's id."""
        return self._name.partition(":")[2].partition("-")[0] or "other"

    @property
    def connected(self) -> bool:
        """``True`` while there is a usable connection."""
        return self._wire is not None and not self._wire.closed

    @property
    def closed(self) -> bool:
        """``True`` once it was closed for good."""
        return self._closing

    async def start(self) -> None:
        """Connect for the first time; after that the link looks after itself.

        Raises:
            ServerUnavailableError: Redis cannot be reached.
        """
        began = time.monotonic()
        await self._connect(CONNECT_TIMEOUT)
        self._connect_within = min(max(_CONNECT_SECONDS, _FAR * (time.monotonic() - began)), CONNECT_TIMEOUT)
        self._keeper = asyncio.create_task(self._keep(), name=f"link-{self._name}")

    async def _connect(self, timeout: float) -> None:
        self._lost.clear()  # before: what is lost while it is made ready must wake the keeper
        # At each attempt: after a failover the master is another server.
        found = await sentinel.locate(self.address, timeout)
        wire = await Wire.connect(
            found, name=self._name, on_message=self._on_message, on_lost=self._on_lost, timeout=timeout
        )
        try:
            async with asyncio.timeout(_READY):
                await _check_up(wire)
                if found is not self.address:
                    await sentinel.check_master(wire)
                if self._on_ready is not None:
                    await self._on_ready(wire)
        except TimeoutError:
            wire.abort()
            raise ServerUnavailableError(f"no answer from the Redis server at {self.address}") from None
        except BaseException:
            wire.abort()
            raise
        # Last: on a new connection others must not come before what `on_ready` does.
        self._wire = wire
        self._up.set()

    def _on_lost(self, wire: Wire) -> None:
        self._up.clear()
        self._lost.set()

    async def _keep(self) -> None:
        while True:
            await self._lost.wait()
            if self._closing:
                return
            event("store.connection_lost", connection=self._name, server=str(self.address))
            await self._reconnect()

    async def _reconnect(self) -> None:
        delay, began, failures = _FIRST_DELAY, time.monotonic(), LogThrottle()
        while not self._closing:
            # Jittered: all processes have lost theirs in the same moment.
            await asyncio.sleep(jittered(delay))
            try:
                await self._connect(self._connect_within)
            except DynamoError as exc:
                if failures.due():
                    event(
                        "store.reconnect_failed",
                        connection=self._name,
                        server=str(self.address),
                        error=str(exc),
                    )
                delay = min(delay * 2, _MAX_DELAY)
            else:
                self.reconnects += 1
                metrics.counter("reconnects_total", connection=self.kind).inc()
                event(
                    "store.reconnected", connection=self._name, server=str(self.address),
                    attempts=failures.count + 1, outage_s=time.monotonic() - began,
                )  # fmt: skip
                return

    async def wire(self, timeout: float | None = None) -> Wire:
        """The open connection; waits for it up to ``timeout`` seconds.

        Raises:
            ServerUnavailableError: none came up in time.
        """
        if self._wire is not None and not self._wire.closed:
            return self._wire
        if self._closing or self._keeper is None:
            raise ServerUnavailableError("the connection is closed")
        try:
            async with asyncio.timeout(timeout):
                while self._wire is None or self._wire.closed:
                    await self._up.wait()
                    # Closed, but not reported as lost yet: without a pause this would spin until then.
                    if self._wire is not None and self._wire.closed:
                        await asyncio.sleep(0.01)
        except TimeoutError:
            raise ServerUnavailableError("the Redis server cannot be reached", retry_after=1.0) from None
        return self._wire

    async def execute(self, *command: str | bytes | int | float) -> Reply:
        """Run one command on the open connection; see :meth:`Wire.execute`."""
        wire = self._wire
        if wire is None or wire.closed:
            raise ServerUnavailableError("the Redis server cannot be reached", retry_after=1.0)
        return await wire.execute(*command)

    def post(self, *command: str | bytes | int | float) -> None:
        """Send one command without waiting; dropped while there is no connection."""
        if self._wire is not None:
            self._wire.post(*command)

    async def close(self) -> None:
        """Close for good; idempotent."""
        self._closing = True
        self._lost.set()
        if self._wire is not None:
            self._wire.close()
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError, DynamoError):
                await self._keeper
            self._keeper = None


async def _check_up(wire: Wire) -> None:
    """Refuse a server that serves nobody yet, e.g. since it still reads its AOF.

    One that cannot save its data says so to a PING as well, but can be read from.
    """
    [reply] = await wire.pipeline([["PING"]])
    if isinstance(reply, Exception) and code_of(str(reply)) != "MISCONF":
        raise refusal(str(reply))


class in_time:  # noqa: N801 - reads as asyncio.timeout does, and costs half of one that is made by a generator
    """Give up a server that holds the connection and does not answer, in an ``async with``.

    Args:
        seconds: That it has.

    Raises:
        ServerUnavailableError: it took longer; whether it has done, or will do, what it was asked for is not known.
    """

    __slots__ = ("_limit",)

    def __init__(self, seconds: float = OPERATION_TIMEOUT):
        self._limit = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._limit.__aexit__(kind, error, trace)
        except TimeoutError:
            raise ServerUnavailableError("the Redis server does not answer", retry_after=1.0) from None
