"""All readers of a process: one push subscription, demultiplexed, with gap repair.

Joining: SUBSCRIBE (confirmed) → ``attach`` (notes the reader in the ledger) → XRANGE → pushes; again after
each reconnect. Until the XRANGE is read, pushes wait: only after it is it known that every later claim has
been pushed too, and without its claim a push that the stream refused looks like the next event. Silent streams
are checked after 1 s, backing off to 5 s, all of them in one pipeline.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import Coroutine, Iterable
from typing import Any

from dynamo_tasks.errors import (
    InvalidEventIdError,
    RequestNotFoundError,
    ServerUnavailableError,
    StreamDivergedError,
    StreamExpiredError,
)
from dynamo_tasks.observe import metrics
from dynamo_tasks.protocol.events import ZERO, EventId, decode_pushed
from dynamo_tasks.protocol.states import TERMINAL
from dynamo_tasks.store.keys import client_channel
from dynamo_tasks.store.ledger.ledger import Ledger
from dynamo_tasks.store.ledger.scripts import Argument, script
from dynamo_tasks.store.ledger.submission import NewRequest
from dynamo_tasks.store.redis.connection import Link
from dynamo_tasks.store.redis.refusals import ReplyError
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.redis.wire import Wire
from dynamo_tasks.store.streams.leaving import Leaving
from dynamo_tasks.store.streams.pages import Pages
from dynamo_tasks.store.streams.subscription import FIRST_CHECK, Subscription

__all__ = ["StreamReader"]

_TICK = 0.25
_RETRY = 0.1


class StreamReader:
    """Reads streams on behalf of everything in this process.

    Args:
        store: Redis.
        client: Name of the process, where it reads on other servers, too; a new one by default.
    """

    def __init__(self, store: Store, client: str | None = None):
        self._store = store
        self._ledger = Ledger(store)
        self.client = client or secrets.token_hex(8)
        self.channel = client_channel(self.client, db=store.address.db, prefix=store.prefix)
        self._link = Link(
            store.address, name="dynamo-tasks:reader", on_ready=self._subscribe, on_message=self._on_message
        )
        self._pages = Pages(store)
        self._leaving = Leaving(store, self.channel, lambda request_id: request_id in self._subs)
        self._subs: dict[str, list[Subscription]] = {}
        self._behind: dict[Subscription, str] = {}
        self._rejoin: set[str] = set()
        self._namespaces: set[str] = set()
        self._subscribed = False
        self._generation = 0
        self._work = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._pushed = metrics.counter("reader_events_total", source="push")
        self._gaps = metrics.counter("reader_gaps_total")

    async def start(self) -> None:
        """Subscribe and begin to watch."""
        await self._link.start()
        self._spawn(self._repair())
        self._spawn(self._watch())

    async def close(self) -> None:
        """Every reader leaves."""
        for sub in self._all():
            sub.close()
        if await self._leaving.close(timeout=1.0):  # of who could not leave, this is what he is found by
            for namespace in self._namespaces:
                self._store.commands.post("SREM", self._store.keys(namespace).clients, self.channel)
        for task in list(self._tasks):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.close()

    def _spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _all(self) -> list[Subscription]:
        return [sub for subs in self._subs.values() for sub in subs]

    async def _subscribe(self, wire: Wire) -> None:
        # Before the confirmation: what is pushed right after it arrives before this coroutine goes on.
        self._subscribed = False
        self._generation += 1
        for sub in self._all():
            sub.lose()
        await wire.execute("SUBSCRIBE", self.channel)
        self._subscribed = True
        self._rejoin.update(self._subs)
        self._read_log(self._all(), "reconnect")

    def _on_message(self, channel: bytes, payload: bytes) -> None:
        now = self._loop.time()
        events = decode_pushed(payload)  # what cannot be read is passed over: the stream has what was meant
        self._pushed.inc(len(events))
        for request_id, event in events:
            for sub in self._subs.get(request_id, ()):
                sub.feed(event, now)

    async def submit(self, new: NewRequest) -> Subscription:
        """Queue a request and read it from its start.

        Raises:
            IdempotencyConflictError, QueueFullError, ServerUnavailableError: see :meth:`Ledger.submit`.
        """
        namespace, new.reader = new.endpoint.namespace, self.channel
        sub = self.expect(namespace, new.id)  # before anybody can push: nothing of it is missed
        try:
            request_id = await self._ledger.submit(new)
        except BaseException:
            sub.close()
            raise
        if request_id == new.id:
            return sub
        sub.close()
        return await self.join(request_id, namespace=namespace)

    def expect(self, namespace: str, request_id: str) -> Subscription:
        """Read a request from its start; to be called before it is submitted with this reader's channel."""
        return self._add(namespace, request_id, ZERO, behind=not self._subscribed)

    def _add(self, namespace: str, request_id: str, after: EventId, *, behind: bool = True) -> Subscription:
        sub = Subscription(
            namespace, request_id, after, on_gap=self._on_gap, on_close=self._on_close, now=self._loop.time(),
            behind=behind,
        )  # fmt: skip
        self._subs.setdefault(request_id, []).append(sub)
        self._namespaces.add(namespace)
        return sub

    async def join(
        self,
        request_id: str,
        *,
        after: EventId | None = None,
        namespace: str | None = None,
        owner_key: str | None = None,
    ) -> Subscription:
        """Read a request that exists, from its start or after an event.

        Args:
            request_id: Its id.
            after: The last event that the reader has.
            namespace: Where it lives; every namespace is asked by default.
            owner_key: Hash of the caller's key; where given, somebody else's request is not found.

        Raises:
            RequestNotFoundError: no such request (or not the caller's).
            StreamExpiredError: its stream is past its retention.
            InvalidEventIdError: ``after`` is beyond the top of the stream.
            StreamDivergedError: the stream has gone on without ``after``.
        """
        namespace = await self._store.find(request_id, namespace)
        sub = self._add(namespace, request_id, after or ZERO)
        sub.check_at = math.inf  # reading the stream counts only once the reader is noted
        try:
            sub.render = await self._join(sub, owner_key)
        except BaseException:
            sub.close()
            raise
        sub.check_at = self._loop.time() + FIRST_CHECK
        self._read_log([sub], "join")
        return sub

    async def _join(self, sub: Subscription, owner_key: str | None) -> bytes:
        wish = sub.cursor.last
        keys, named = self._attach(sub, owner_key, wish)
        reply = await script("attach").run(self._store.commands, keys, **named)
        if not reply:
            raise RequestNotFoundError(f"no request {sub.request_id!r} is known")
        state, top, there, owner, render, noted, known = reply
        if noted == b"1":
            if state.decode() in TERMINAL and top.decode() == str(wish):
                sub.cursor.ended = True  # it has all of it
            return bytes(render)
        if owner_key is not None and owner and owner.decode() != owner_key:
            raise RequestNotFoundError(f"no request {sub.request_id!r} is known")
        if there == b"0":
            raise StreamExpiredError(f"the stream of request {sub.request_id} is past its retention")
        if known == b"0":
            raise StreamDivergedError(f"event {wish} is not in the stream, which goes on to {top.decode()}")
        raise InvalidEventIdError(
            f"event {wish} is beyond the top of the stream, {top.decode()}", param="after"
        )

    def _attach(
        self, sub: Subscription, owner_key: str | None, wish: EventId
    ) -> tuple[list[str], dict[str, Argument]]:
        """Keys and arguments of the ``attach`` script."""
        keys = self._store.keys(sub.namespace)
        named: dict[str, Argument] = {
            "base": keys.base, "id": sub.request_id, "db": self._store.address.db, "reader": self.channel,
            "only_owner": int(owner_key is not None), "owner_key": owner_key or "", "after_epoch": wish.epoch,
            "after_seq": wish.seq,
        }  # fmt: skip
        return [keys.record(sub.request_id), keys.stream(sub.request_id)], named

    def _on_gap(self, sub: Subscription) -> None:
        if sub.lagging:
            self._read_log([sub], "slow")
            return
        self._gaps.inc()
        self._read_log([sub], "gap")

    def _read_log(self, subs: Iterable[Subscription], reason: str) -> None:
        for sub in subs:
            self._behind.setdefault(sub, reason)
        self._work.set()

    async def _repair(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            # All at once: after a reconnect that is every stream of this process.
            behind, self._behind = self._behind, {}
            try:
                wire = await self._store.commands.wire()
                await self._attach_again(wire)
                for sub, reason in behind.items():
                    if sub.hungry:
                        metrics.counter("reader_xranges_total", reason=reason).inc()
                read = await self._pages.read(wire, [sub for sub in behind if sub.hungry], self._loop.time)
            except (ServerUnavailableError, ReplyError):
                await asyncio.sleep(_RETRY)
                for sub, reason in behind.items():
                    self._read_log([sub], reason)
                continue
            for sub in read:
                # Before both, pushes may pass by unseen: it stays behind until a later read.
                if self._subscribed and sub.request_id not in self._rejoin:
                    sub.caught_up(self._loop.time())

    async def _attach_again(self, wire: Wire) -> None:
        """After a reconnect: be a reader of everything again, in one pipeline."""
        wanted = [subs[0] for request_id in self._rejoin if (subs := self._subs.get(request_id))]
        self._rejoin.intersection_update(self._subs)
        if not wanted or not self._subscribed:
            return
        generation, attach = self._generation, script("attach")
        await wire.execute("SCRIPT", "LOAD", attach.source)
        calls = [self._attach(sub, None, ZERO) for sub in wanted]
        replies = await wire.pipeline([attach.command(keys, **named) for keys, named in calls])
        # Else a newer connection has put all of them back on the list: these replies do not speak for it.
        if generation == self._generation and self._subscribed:
            # A record that is missing is restored by its owner: ask again with the next check.
            done = [
                sub for sub, reply in zip(wanted, replies, strict=True) if isinstance(reply, list) and reply
            ]
            self._rejoin.difference_update(sub.request_id for sub in done)

    async def _watch(self) -> None:
        gauge = metrics.gauge("reader_streams")
        while True:
            await asyncio.sleep(_TICK)
            now = self._loop.time()
            gauge.set(len(self._subs))
            # Where the last push of a stream is lost, no later one shows the gap: silence is looked into.
            silent = [sub for sub in self._all() if sub.check_at <= now and sub.hungry]
            if silent:
                self._read_log(silent, "silence")

    def _on_close(self, sub: Subscription) -> None:
        subs = self._subs.get(sub.request_id, [])
        if sub in subs:
            subs.remove(sub)
        if not subs and self._subs.pop(sub.request_id, None) is not None:
            self._leaving.add(sub)
