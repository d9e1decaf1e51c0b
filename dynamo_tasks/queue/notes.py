"""Unacknowledged messages of a worker: those of plain tasks are noted on the server, as kombu does.

kombu notes and acknowledges one message at a time, and waits for the server each time. On a worker's loop, what was
popped together is noted in one step, and what is done meanwhile is acknowledged in one step.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.transport.virtual import QoS as VirtualQoS
from kombu.utils.json import dumps

from dynamo_tasks.errors import ServerRefusedError
from dynamo_tasks.queue.broker import greenlets
from dynamo_tasks.queue.broker.envelope import HEADER

__all__ = ["QoS"]


class QoS(kombu_redis.QoS):  # type: ignore[misc]
    """Unacknowledged messages; those with a ledger record need no note on the server."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._noted: set[str] = set()

    def note(self, messages: list[dict[str, Any]]) -> list[str]:
        """Note messages that were popped together, in one step; returns their tags."""
        tags = [message["properties"]["delivery_tag"] for message in messages]
        with self.pipe_or_acquire() as pipe:
            for tag, message in zip(tags, messages, strict=True):
                info = message["properties"]["delivery_info"]
                pipe.zadd(self.unacked_index_key, {tag: time.time()})
                pipe.hset(self.unacked_key, tag, dumps([message, info["exchange"], info["routing_key"]]))
            pipe.execute()
        self._noted.update(tags)
        return tags

    def append(self, message: Any, delivery_tag: str) -> None:
        """A message was delivered."""
        if HEADER in message.headers or delivery_tag in self._noted:
            self._noted.discard(delivery_tag)
            VirtualQoS.append(self, message, delivery_tag)
            return
        try:
            super().append(message, delivery_tag)
        except ServerRefusedError:
            # It runs without a note: the server takes none, and would not take the message back either.
            VirtualQoS.append(self, message, delivery_tag)

    def _tracked(self, delivery_tag: str) -> bool:
        message = self._delivered.get(delivery_tag)
        return message is not None and HEADER in message.headers

    def ack(self, delivery_tag: str) -> None:
        """A message is done."""
        if self._tracked(delivery_tag):
            VirtualQoS.ack(self, delivery_tag)
        else:
            self._untracked(super().ack, delivery_tag, False)

    def _untracked(self, settle: Callable[[str], None], delivery_tag: str, requeue: bool) -> None:
        """Settle a message that has a note on the server: now, or later where the server is away or refuses.

        On a loop always later: with all others that are done by then.
        """
        if self.channel.closed or (greenlets.on_loop() and not requeue):
            VirtualQoS.ack(self, delivery_tag)
            self.channel.acknowledged_late(delivery_tag, requeue)
            return
        try:
            settle(delivery_tag)
        except ServerRefusedError:
            VirtualQoS.ack(self, delivery_tag)
            self.channel.acknowledged_late(delivery_tag, requeue)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """A message is not wanted; with ``requeue`` it goes to the front of its queue."""
        if not self._tracked(delivery_tag):
            self._untracked(partial(super().reject, requeue=requeue), delivery_tag, requeue)
            return
        if requeue and not self.channel.closed:
            self.channel.requeue([delivery_tag])
        else:
            VirtualQoS.ack(self, delivery_tag)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Restore what was taken long ago; where the server refuses the lock for that, the next time."""
        with contextlib.suppress(ServerRefusedError):
            super().restore_visible(*args, **kwargs)
