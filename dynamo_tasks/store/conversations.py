"""Conversations: an object each, and its items in the order in which they came.

A response adds its items when it has ended. While it runs the conversation is *open* for it, and for no other one; the
step that adds them also closes it. So they are added once, by any process that finds that the response has ended: for
the next reader, or in a sweep. A response that does not end well adds none, and the conversation is closed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.errors import (
    ConversationLockedError,
    InvalidRequestError,
    ObjectConflictError,
    ObjectNotFoundError,
    ProtocolError,
)
from dynamo_tasks.store.ledger.scripts import Argument, script
from dynamo_tasks.store.objects import ObjectKind, Objects, StoredObject
from dynamo_tasks.store.redis.containment import MALFORMED
from dynamo_tasks.store.redis.server import Store

__all__ = ["CONVERSATION", "MOST_BYTES", "Conversation", "Conversations", "Opened", "Snapshot"]

MOST_BYTES = 16 << 20
"""Of the items of a conversation to which more can be added; what is added last may go beyond."""
_RENEWED_BELOW = 0.9
"""Share of its time to live below which a conversation in use gets all of it again."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode


class Conversation(msgspec.Struct):
    """The document of a conversation.

    Attributes:
        metadata: As its owner gave it.
    """

    metadata: dict[str, str] = {}


CONVERSATION = ObjectKind("conversation", Conversation)


class Opened(NamedTuple):
    """A response that will add its items to a conversation.

    Attributes:
        conversation: The conversation's id.
        request: The id of the response's request.
    """

    conversation: str
    request: str


class Snapshot(NamedTuple):
    """The items of a conversation at one moment.

    Attributes:
        items: The oldest first.
        changes: How often they have changed; see :meth:`Conversations.open`.
        opened: The response that will add its items; empty = none.
        since: When that began, Unix seconds.
        bytes: That they take.
    """

    items: list[dict[str, Any]]
    changes: str
    opened: str
    since: float
    bytes: int = 0


class Conversations:
    """The conversations of one namespace.

    Args:
        store: Redis.
        namespace: Where they live.
        objects: Of the same namespace.
    """

    def __init__(self, store: Store, namespace: str, objects: Objects):
        self._store = store
        self._keys = store.keys(namespace)
        self.objects = objects

    async def snapshot(self, conversation_id: str) -> Snapshot:
        """Read all items, and what goes on. Whose it is was asked before."""
        keys = self._keys
        wire = await self._store.commands.wire()
        # Items that change in between do not fit `changes`, and are noticed when it is opened.
        state, order, items = await wire.ask(
            [
                ("HMGET", keys.conversation(conversation_id), "changes", "open", "since", "bytes"),
                ("ZRANGE", keys.conversation_order(conversation_id), 0, -1),
                ("HGETALL", keys.conversation_items(conversation_id)),
            ]
        )
        found = dict(zip(items[::2], items[1::2], strict=True))
        changes, opened, since, size = (value.decode() if value else "" for value in state)
        rows = [found[name] for name in order if name in found]
        known = await offload(sum(map(len, rows)), _items, rows)
        return Snapshot(known, changes or "0", opened, int(since or 0) / 1000, int(size or 0))

    async def page(
        self, conversation_id: str, *, order: str, after: str, limit: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """Read some items, and whether others follow. Whose it is was asked before.

        Raises:
            InvalidRequestError: No item has the id ``after``.
        """
        commands, key = self._store.commands, self._keys.conversation_order(conversation_id)
        newest = order == "desc"
        first = 0
        if after:
            place = await commands.execute("ZREVRANK" if newest else "ZRANK", key, after)
            if place is None:
                raise InvalidRequestError(f"after: no item has the id {after!r:.150}", param="after")
            first = place + 1
        names = await commands.execute("ZREVRANGE" if newest else "ZRANGE", key, first, first + limit)
        if not names:
            return [], False
        rows = await commands.execute("HMGET", self._keys.conversation_items(conversation_id), *names[:limit])
        there = [row for row in rows if row is not None]
        return await offload(sum(map(len, there)), _items, there), len(names) > limit

    async def item(self, conversation_id: str, item_id: str) -> dict[str, Any]:
        """Read an item. Whose the conversation is was asked before.

        Raises:
            ObjectNotFoundError: There is no such item.
        """
        row = await self._store.commands.execute(
            "HGET", self._keys.conversation_items(conversation_id), item_id
        )
        if row is None:
            raise _unknown_item(item_id)
        return _item(row)

    async def renewed(
        self, known: StoredObject[Conversation], retention: float
    ) -> StoredObject[Conversation]:
        """Let a conversation that is used live for another while; so does one that is changed at the moment."""
        left = (known.ends or 0) - await self.time()
        if known.ends is not None and left < _RENEWED_BELOW * retention:
            with contextlib.suppress(ObjectConflictError):
                return await self.objects.replace(CONVERSATION, known, known.data, ttl=retention)
        return known

    async def open(self, opened: Opened, owner: str, changes: str) -> None:
        """Open a conversation for a response, before that is submitted.

        Args:
            opened: Which, and for which one.
            owner: Whose it must be.
            changes: Of the :class:`Snapshot` that the response was made of.

        Raises:
            ConversationLockedError: Another response goes on, or the items have changed since.
            ObjectNotFoundError: There is none, or it is another owner's.
        """
        code = await script("conversation_open").run(
            self._store.commands, [self._object(opened.conversation)], base=self._keys.base, id=opened.conversation,
            owner=owner, request=opened.request, changes=changes,
        )  # fmt: skip
        if code == b"GONE":
            raise CONVERSATION.unknown(opened.conversation)
        if code != b"OK":
            raise ConversationLockedError()

    async def close(self, opened: Opened) -> None:
        """Close it: the response adds nothing."""
        await script("conversation_close").run(
            self._store.commands, [self._object(opened.conversation)], base=self._keys.base, id=opened.conversation,
            request=opened.request,
        )  # fmt: skip

    async def append(
        self, conversation_id: str, owner: str, items: Sequence[dict[str, Any]], *, request: str = "", most: int = 0
    ) -> bool:  # fmt: skip
        """Add items; those of a response once.

        Args:
            conversation_id: Where to.
            owner: Whose it must be; empty = anybody's.
            items: Plain items with an ``id``.
            request: The id of the request of the response that they are of; empty = of none.
            most: Items that there may be, of :data:`MOST_BYTES`; 0 = any number.

        Returns:
            ``False`` where the response has added them before.

        Raises:
            ObjectNotFoundError: There is none, or it is another owner's.
            InvalidRequestError: There would be too many, or one of them has the id of another one that is there.
        """
        rows: list[Argument] = [part for item in items for part in (item["id"], _encode(item))]
        code = await script("conversation_append").run(
            self._store.commands, [self._object(conversation_id)], *rows, base=self._keys.base, id=conversation_id,
            owner=owner, request=request, most=most, most_bytes=MOST_BYTES,
        )  # fmt: skip
        if code == b"GONE":
            raise CONVERSATION.unknown(conversation_id)
        if code == b"FULL":
            raise InvalidRequestError(
                f"items: a conversation has at most {most}, of {MOST_BYTES} bytes", param="items"
            )
        if code == b"TWICE":
            raise InvalidRequestError("items: the conversation has an item with such an id", param="items")
        return bool(code == b"OK")

    async def remove(self, conversation_id: str, owner: str, item_id: str) -> None:
        """Delete an item.

        Raises:
            ObjectNotFoundError: There is no such conversation of the owner's, or no such item.
        """
        code = await script("conversation_remove").run(
            self._store.commands, [self._object(conversation_id)], base=self._keys.base, id=conversation_id,
            owner=owner, item=item_id,
        )  # fmt: skip
        if code == b"GONE":
            raise CONVERSATION.unknown(conversation_id)
        if code == b"UNKNOWN":
            raise _unknown_item(item_id)

    async def delete(self, conversation_id: str, owner: str) -> None:
        """Delete a conversation with its items.

        Raises:
            ObjectNotFoundError: There is none, or it is another owner's.
        """
        await self.objects.delete(CONVERSATION, conversation_id, owner)
        keys = self._keys
        await self._store.commands.execute(
            "UNLINK", keys.conversation(conversation_id), keys.conversation_order(conversation_id),
            keys.conversation_items(conversation_id),
        )  # fmt: skip

    async def opened(self, limit: int, again: float) -> list[Opened]:
        """Take responses that may have ended; each is given out again after a while, as long as it is open.

        Args:
            limit: Most of them.
            again: Seconds.
        """
        now = await self.time()
        key = self._keys.open_conversations
        found = await self._store.commands.execute(
            "ZRANGEBYSCORE", key, "-inf", int((now - again) * 1000), "LIMIT", 0, limit
        )
        looked_at: list[Argument] = [part for member in found for part in (int(now * 1000), member)]
        if looked_at:
            await self._store.commands.execute("ZADD", key, "XX", *looked_at)
        return [Opened(*member.decode().split(" ", 1)) for member in found]

    async def time(self) -> float:
        """Unix seconds by the clock of Redis."""
        seconds, micros = await self._store.commands.execute("TIME")
        return int(seconds) + int(micros) / 1e6

    def _object(self, conversation_id: str) -> str:
        return self._keys.object(CONVERSATION.name, conversation_id)


def _items(rows: Sequence[bytes]) -> list[dict[str, Any]]:
    return [_item(row) for row in rows]


def _item(row: bytes) -> dict[str, Any]:
    try:
        return _decode(row)
    except MALFORMED as exc:
        raise ProtocolError(f"an item of a conversation cannot be read: {exc}") from exc


def _unknown_item(item_id: str) -> ObjectNotFoundError:
    return ObjectNotFoundError(f"no item {item_id!r:.150} is known", param="item_id")
