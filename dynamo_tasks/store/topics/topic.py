"""Events of components and namespaces: bounded logs that any number of subscribers read, each at its own pace.

An event is an entry of a Redis Stream; its id says where to go on. Publishing appends and wakes the subscribers
up; they read the stream, so a lost wake-up is only a delay, and a slow subscriber costs a publisher nothing. One
that falls behind by more than the stream holds goes on with the oldest event, and says so in its own log.
"""

from __future__ import annotations

import math
from typing import Any

from dynamo_tasks.errors import (
    InvalidEventIdError,
    InvalidRequestError,
    PayloadTooLargeError,
)
from dynamo_tasks.protocol.events import EventId
from dynamo_tasks.protocol.names import Subject, check_group
from dynamo_tasks.protocol.plain import NOT_PLAIN, encode_plain
from dynamo_tasks.store.redis.pubsub import Channels
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.topics.groups import ACK_WAIT, GroupSubscription
from dynamo_tasks.store.topics.subscriber import KEPT_MS, EventSubscription

__all__ = ["MAX_PAYLOAD", "Topic"]

MAX_PAYLOAD = 1 << 20
"""Most bytes of one event."""
KEPT = 10_000
"""Events of a subject that are kept, or a few more: Redis trims whole nodes of a stream."""
_LATEST = 2**53 / 1000


class Topic:
    """Publishes and reads the events of one server.

    Args:
        store: Redis.
        channels: The process's subscriptions.
        kept: Events that are kept per subject, about.
    """

    def __init__(self, store: Store, channels: Channels, *, kept: int = KEPT):
        self.store = store
        self.channels = channels
        self._kept = kept

    async def publish(self, subject: Subject, payload: Any) -> str:
        """Append an event; returns its id.

        Raises:
            InvalidRequestError: the payload is not JSON.
            PayloadTooLargeError: it is larger than 1 MiB.
            ServerUnavailableError: Redis cannot be reached.
        """
        data = _encode(payload)
        keys = self.store.keys(subject.namespace)
        key = keys.events(str(subject))
        wire = await self.store.commands.wire(timeout=5.0)
        added, *_ = await wire.ask(
            [
                ["XADD", key, "MAXLEN", "~", self._kept, "*", "p", data],
                ["PEXPIRE", key, KEPT_MS],
                ["SADD", self.store.keys.namespaces, subject.namespace],
                ["PUBLISH", keys.events_channel(str(subject)), ""],
            ]
        )
        return str(added.decode())

    def subscribe(
        self,
        subject: Subject,
        since: str | float | None = None,
        *,
        group: str | None = None,
        ack_wait: float = ACK_WAIT,
    ) -> EventSubscription:
        """Read events of a subject; see :class:`EventSubscription` and :class:`GroupSubscription`.

        Args:
            subject: Whose.
            since: Id of the last event seen, or Unix time in seconds; only new events by default. For a group:
                where it begins when it is new; with the oldest event by default.
            group: Name of a durable group.
            ack_wait: Seconds after which an event that a member of the group took and did not deal with goes to
                another one.

        Raises:
            InvalidEventIdError: ``since`` is neither.
            InvalidNameError: a bad group name.
            InvalidRequestError: ``ack_wait`` is not above 0.
        """
        start = _position(since)
        if group is None:
            return EventSubscription(self.store, self.channels, subject, start)
        if not ack_wait > 0:
            raise InvalidRequestError(f"ack_wait must be above 0 seconds, not {ack_wait!r}", param="ack_wait")
        return GroupSubscription(
            self.store, self.channels, subject, start, group=check_group(group), ack_wait=ack_wait
        )


def _encode(payload: Any) -> bytes:
    try:
        data = encode_plain(payload)
    except NOT_PLAIN as exc:
        raise InvalidRequestError(f"the payload of an event must be JSON: {exc}", param="payload") from None
    if len(data) > MAX_PAYLOAD:
        raise PayloadTooLargeError(f"the event has {len(data)} bytes; at most {MAX_PAYLOAD} are allowed")
    return data


def _position(since: str | float | None) -> str:
    """The start of XRANGE: ``(id`` after an event, ``id`` at a time, '' at the end of the stream."""
    if since is None:
        return ""
    if isinstance(since, int | float):
        if not math.isfinite(since) or since > _LATEST:
            raise InvalidEventIdError(f"{since!r} is no Unix time in seconds")
        return f"{max(0, int(since * 1000))}-0"
    try:
        return f"({EventId.parse(since)}"
    except InvalidEventIdError:
        text = f"{since[:100]!r} is no event id; expected <ms>-<seq>, or a Unix time as a number"
        raise InvalidEventIdError(text) from None
