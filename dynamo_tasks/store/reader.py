"""All readers of a process: one push subscription, demultiplexed, with gap repair.

Joining: SUBSCRIBE (confirmed) → ``attach`` (notes the reader in the ledger) → XRANGE → pushes; again after
each reconnect. Silent streams are checked after 1 s, backing off to 5 s, all of them in one pipeline.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterable

import msgspec

from dynamo_tasks.errors import (
    InvalidEventIdError,
    RequestNotFoundError,
    ServerUnavailableError,
    StreamExpiredError,
)
from dynamo_tasks.observe import metrics
from dynamo_tasks.protocol.events import ZERO, Event, EventId
from dynamo_tasks.protocol.states import TERMINAL
from dynamo_tasks.store.base import Store
from dynamo_tasks.store.keys import client_channel
from dynamo_tasks.store.link import Link
from dynamo_tasks.store.scripts import script
from dynamo_tasks.store.streams import decode_row
from dynamo_tasks.store.subscription import Subscription
from dynamo_tasks.store.wire import Reply, Wire

__all__ = ["StreamReader"]

PAGE = 512
"""Events per XRANGE."""
_TICK = 0.25
_decode = msgspec.msgpack.Decoder(list[tuple[str, str, str, bytes]]).decode
_TERMINAL = {state.value.encode() for state in TERMINAL}


class StreamReader:
    """Reads streams on behalf of everything in this process."""

    def __init__(self, store: Store):
        self._store = store
        self.client = secrets.token_hex(8)
        self.channel = client_channel(self.client, db=store.address.db, prefix=store.prefix)
        self._link = Link(
            store.address, name="dynamo-tasks:reader", on_ready=self._subscribe, on_message=self._on_message
        )
        self._subs: dict[str, list[Subscription]] = {}
        self._behind: set[Subscription] = set()
        self._work = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._started = False
        self._pushed = metrics.counter("reader_events_total", source="push")
        self._gaps = metrics.counter("reader_gaps_total")

    async def start(self) -> None:
        """Subscribe and begin to watch."""
        await self._link.start()
        self._started = True
        self._spawn(self._repair())
        self._spawn(self._watch())

    async def close(self) -> None:
        """Every reader leaves."""
        for sub in [sub for subs in self._subs.values() for sub in subs]:
            sub.close()
        leaving = [task for task in self._tasks if task.get_name() == "detach"]
        if leaving:
            await asyncio.wait(leaving, timeout=1.0)
        for task in list(self._tasks):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.close()

    def _spawn(self, coro: object, name: str | None = None) -> None:
        task = asyncio.create_task(coro, name=name)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _subscribe(self, wire: Wire) -> None:
        await wire.execute("SUBSCRIBE", self.channel)
        if self._started:
            self._spawn(self._rejoin())

    async def _rejoin(self) -> None:
        await self._store.commands.wire()
        for request_id, subs in list(self._subs.items()):
            with contextlib.suppress(ServerUnavailableError):
                await self._attach(subs[0].namespace, request_id)
        self._read_log([sub for subs in self._subs.values() for sub in subs])

    def _on_message(self, channel: bytes, payload: bytes) -> None:
        now = self._loop.time()
        events = _decode(payload)
        self._pushed.inc(len(events))
        for request_id, event_id, kind, data in events:
            subs = self._subs.get(request_id)
            if subs:
                event = Event(EventId.parse(event_id), kind, data)
                for sub in subs:
                    sub.feed(event, now)

    def expect(self, namespace: str, request_id: str) -> Subscription:
        """Read a request from its start; to be called before it is submitted with this reader's channel."""
        return self._add(namespace, request_id, ZERO)

    def _add(self, namespace: str, request_id: str, after: EventId) -> Subscription:
        sub = Subscription(
            namespace, request_id, after, on_gap=self._on_gap, on_close=self._on_close, now=self._loop.time()
        )
        self._subs.setdefault(request_id, []).append(sub)
        return sub

    async def join(
        self, request_id: str, *, after: EventId | None = None, namespace: str | None = None, owner_key: str | None = None
    ) -> Subscription:
        """Read a request that exists, from its start or behind an event.

        Args:
            request_id: Its id.
            after: The last event that the reader has.
            namespace: Where it lives; every namespace is asked by default.
            owner_key: Hash of the caller's key; where given, somebody else's request is not found.

        Raises:
            RequestNotFoundError: no such request (or not the caller's).
            StreamExpiredError: its log is past its retention.
            InvalidEventIdError: ``after`` is beyond the top of the stream.
        """
        namespace = await self._store.find(request_id, namespace)
        sub = self._add(namespace, request_id, after or ZERO)
        try:
            state, top, there, owner, render = await self._attach(namespace, request_id)
            if owner_key is not None and owner and owner != owner_key:
                raise RequestNotFoundError(f"no request {request_id!r} is known")
            if not there and state in _TERMINAL:
                raise StreamExpiredError(f"the stream of request {request_id} is past its retention")
            if after is not None and after > top:
                raise InvalidEventIdError(f"event {after} is beyond the top of the stream, {top}", param="after")
        except BaseException:
            sub.close()
            raise
        sub.render = render
        self._read_log([sub])
        return sub

    async def _attach(self, namespace: str, request_id: str) -> tuple[bytes, EventId, bool, str, bytes]:
        keys = self._store.keys(namespace)
        reply = await script("attach").run(
            self._store.commands, [keys.record(request_id), keys.log(request_id)], keys.base, request_id,
            self._store.address.db, self.channel,
        )  # fmt: skip
        if not reply:
            raise RequestNotFoundError(f"no request {request_id!r} is known")
        state, top, there, owner, render = reply
        return state, EventId.parse(top.decode()), there == b"1", owner.decode(), render

    def _on_gap(self, sub: Subscription) -> None:
        self._gaps.inc()
        self._read_log([sub])

    def _read_log(self, subs: Iterable[Subscription]) -> None:
        self._behind.update(subs)
        self._work.set()

    async def _repair(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            behind, self._behind = self._behind, set()
            try:
                wire = await self._store.commands.wire()
                await self._read_pages(wire, [sub for sub in behind if sub.hungry])
            except ServerUnavailableError:
                self._read_log(behind)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            now = self._loop.time()
            silent = [sub for subs in self._subs.values() for sub in subs if sub.check_at <= now and sub.hungry]
            if silent:
                self._read_log(silent)

    async def _read_pages(self, wire: Wire, subs: list[Subscription]) -> None:
        """Read what the logs hold behind each reader's last event."""
        while subs:
            commands: list[list[str | bytes | int | float]] = []
            for sub in subs:
                keys = self._store.keys(sub.namespace)
                commands.append(["HGET", keys.record(sub.request_id), "st"])
                commands.append(["XRANGE", keys.log(sub.request_id), f"({sub.cursor.last}", "+", "COUNT", PAGE])
            replies = await wire.pipeline(commands)
            pairs = zip(subs, replies[::2], replies[1::2], strict=True)
            subs = [sub for sub, state, page in pairs if self._take_page(sub, state, page)]

    def _take_page(self, sub: Subscription, state: bytes | None, page: Reply) -> bool:
        """Feed a page to its reader; returns whether there is more to read."""
        metrics.counter("reader_xranges_total", reason="repair").inc()
        now = self._loop.time()
        if not isinstance(page, list):
            return False
        if page:
            sub.fill([decode_row(row) for row in page], now)
            return len(page) == PAGE and sub.hungry
        sub.checked(now)
        if state is None:
            sub.fail(RequestNotFoundError(f"the server forgot request {sub.request_id}"))
        elif state in _TERMINAL:
            sub.fail(StreamExpiredError(f"the stream of request {sub.request_id} is past its retention"))
        return False

    def _on_close(self, sub: Subscription) -> None:
        subs = self._subs.get(sub.request_id, [])
        if sub in subs:
            subs.remove(sub)
        if not subs and self._subs.pop(sub.request_id, None) is not None:
            self._spawn(self._detach(sub), name="detach")

    async def _detach(self, sub: Subscription) -> None:
        keys = self._store.keys(sub.namespace)
        with contextlib.suppress(ServerUnavailableError):
            await self._store.commands.wire(timeout=30.0)
            if sub.request_id in self._subs:
                return
            await script("detach").run(
                self._store.commands, [keys.record(sub.request_id), keys.log(sub.request_id)], keys.base,
                sub.request_id, self._store.address.db, self.channel, int(sub.ended),
            )  # fmt: skip

