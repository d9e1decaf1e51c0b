"""Durable groups of subscribers: Redis keeps how far a group is, and its members share the events.

A group is a consumer group of the subject's stream. Each event goes to one member. It counts as dealt with when that
member asks for the next one (or calls ``ack``); until then it is the group's debt: what a member leaves behind goes to
another one, at once if it left in good order, after ``ack_wait`` seconds if it died. So each event is dealt with at
least once per group. A group goes with its stream, a day after the last event; it is then made anew with the oldest
event that is there.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from dynamo_tasks.errors import ServerUnavailableError
from dynamo_tasks.protocol.names import Subject
from dynamo_tasks.store.redis.pubsub import Channels
from dynamo_tasks.store.redis.refusals import ReplyError
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.topics.subscriber import KEPT_MS, RETRY, EventSubscription, TopicEvent

__all__ = ["ACK_WAIT", "GroupSubscription"]

ACK_WAIT = 30.0
"""Seconds after which an event that was taken and not dealt with goes to another member."""
_PAGE = 16
_LOOK_EVERY = 1.0
_LAST_OF_MS = (1 << 64) - 1


class GroupSubscription(EventSubscription):
    """One member of a group: ``async for event in component.subscribe("kv_events", group="billing")``."""

    def __init__(
        self, store: Store, channels: Channels, subject: Subject, start: str, *, group: str, ack_wait: float
    ):
        super().__init__(store, channels, subject, start)
        self._group = group
        self._member = secrets.token_hex(8)
        self._ack_wait_ms = round(ack_wait * 1000) or 1
        self._look_at = 0.0
        self._current: TopicEvent | None = None

    async def __anext__(self) -> TopicEvent:
        await self.ack()
        self._current = await super().__anext__()
        return self._current

    async def ack(self) -> None:
        """The event that was given last is dealt with; asking for the next one says the same."""
        current = self._current
        while current is not None:
            try:
                await self._commands.execute("XACK", self._key, self._group, current.id)
            except ServerUnavailableError:
                await asyncio.sleep(RETRY)
                continue
            self._current = current = None

    def _pass_over(self, event_id: str) -> None:
        self._commands.post("XACK", self._key, self._group, event_id)

    async def _find_start(self) -> None:
        await self._make(_before(self._start))

    async def _make(self, start: str) -> None:
        """Make the group; one that is there stays where it is."""
        try:
            await self._commands.execute("XGROUP", "CREATE", self._key, self._group, start, "MKSTREAM")
            # As publishing does; a stream that nobody ever writes to must not stay for ever.
            await self._commands.execute("PEXPIRE", self._key, KEPT_MS, "NX")
        except ReplyError as exc:
            if "BUSYGROUP" not in exc.text:
                raise

    async def _read(self) -> None:
        try:
            await self._find_unacknowledged()
            if not self._pending:
                self._take(await self._new_ones())
        except ServerUnavailableError:
            await asyncio.sleep(RETRY)
        except ReplyError as exc:
            if "NOGROUP" not in exc.text:
                raise
            # The stream has gone with its last event, or was erased: what is in it now is new.
            await self._make("0-0")
            self._news.set()

    async def _new_ones(self) -> list[Any]:
        found = await self._commands.execute(
            *("XREADGROUP", "GROUP", self._group, self._member, "COUNT", _PAGE, "STREAMS", self._key, ">")
        )
        return list(found[0][1]) if found else []

    async def _find_unacknowledged(self) -> None:
        """Take over what other members took long ago and did not deal with."""
        if time.monotonic() < self._look_at:
            return
        _, rows, *_ = await self._commands.execute(
            "XAUTOCLAIM", self._key, self._group, self._member, self._ack_wait_ms, "0-0", "COUNT", _PAGE
        )
        if not rows:
            # Else there may be more of them.
            self._look_at = time.monotonic() + min(_LOOK_EVERY, self._ack_wait_ms / 2000)
        self._take(rows)

    async def aclose(self) -> None:
        """End; what was taken and not dealt with goes to another member at once."""
        await super().aclose()
        left = [event.id for event in ([self._current] if self._current else []) + list(self._pending)]
        self._current = None
        self._pending.clear()
        if not self._begun:
            return
        try:
            if left:
                # Taken so long ago that the next one to look takes it over.
                await self._commands.execute(
                    "XCLAIM", self._key, self._group, self._member, 0, *left, "TIME", 1, "JUSTID"
                )
            else:
                await self._commands.execute("XGROUP", "DELCONSUMER", self._key, self._group, self._member)
        except (ServerUnavailableError, ReplyError):
            # They go to another member when their time is over.
            return


def _before(start: str) -> str:
    """The id after which a group begins, from where a subscriber would begin."""
    if start.startswith("("):
        return start[1:]
    ms = int(start.partition("-")[0] or 0)
    return f"{ms - 1}-{_LAST_OF_MS}" if ms else "0-0"
