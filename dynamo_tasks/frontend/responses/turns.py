"""Turns of conversations: a response knows the items before it, and adds its own when it has ended.

Whoever reads a conversation finds the end of a turn first, so nobody sees it without the items of a response that has
ended. The same is done by a sweep, for those whom nobody reads.
"""

from __future__ import annotations

from typing import Any

from dynamo_tasks.errors import (
    ConversationLockedError,
    InvalidRequestError,
    ObjectNotFoundError,
    RequestNotFoundError,
)
from dynamo_tasks.frontend.gateway import Gateway
from dynamo_tasks.frontend.responses.document import usable
from dynamo_tasks.frontend.responses.names import response_id
from dynamo_tasks.frontend.responses.stored import StoredResponses
from dynamo_tasks.store.conversations import (
    CONVERSATION,
    MOST_BYTES,
    Conversation,
    Conversations,
    Opened,
    Snapshot,
)
from dynamo_tasks.store.objects import ANYBODY, StoredObject
from dynamo_tasks.store.redis.connection import in_time
from dynamo_tasks.store.redis.containment import contained

__all__ = ["ConversationTurn", "Turns"]

_CONNECT_SECONDS = 3.0
_UNKNOWN_FOR = 60.0
"""Seconds after which a response that was to be submitted, and is not known, never will be."""
_LOOKED_AT = 50
_LOOK_AGAIN = 2.0


class ConversationTurn:
    """A response that is to begin in a conversation.

    Args:
        conversations: All of them.
        opened: Which, and for which one.
        owner: Whose it is.
        changes: Of the items that the response knows.
    """

    def __init__(self, conversations: Conversations, opened: Opened, owner: str, changes: str):
        self._conversations = conversations
        self._opened = opened
        self._owner = owner
        self._changes = changes

    async def begin(self) -> None:
        """Open the conversation for it; right before it is submitted.

        Raises:
            ConversationLockedError: Another one goes on.
        """
        async with in_time(_CONNECT_SECONDS):
            await self._conversations.open(self._opened, self._owner, self._changes)

    async def give_up(self) -> None:
        """Close the conversation again: it was not submitted."""
        async with in_time(_CONNECT_SECONDS):
            await self._conversations.close(self._opened)


class Turns:
    """Turns of all conversations.

    Args:
        gateway: The way to Redis.
        retention: Seconds for which a conversation lives on after it was used.
    """

    def __init__(self, gateway: Gateway, retention: float):
        self._gateway = gateway
        self._stored = StoredResponses(gateway)
        self._retention = retention

    async def items(
        self, conversation_id: str, owner: str, request_id: str
    ) -> tuple[list[dict[str, Any]], ConversationTurn]:
        """The items that a new response knows, and its turn.

        Raises:
            ObjectNotFoundError: There is no such conversation of the owner's.
            ConversationLockedError: Another response goes on in it.
            InvalidRequestError: Its items are too large.
        """
        async with in_time(_CONNECT_SECONDS):
            known = await self.find(conversation_id, owner)
            await self._gateway.conversations.renewed(known, self._retention)
            found = await self._settled(known)
        if found.opened:
            raise ConversationLockedError(retry_after=1.0)
        if found.bytes > MOST_BYTES:
            raise InvalidRequestError(
                f"conversation: its items have {found.bytes} bytes, at most {MOST_BYTES} are taken; delete some",
                param="conversation",
            )
        opened = Opened(conversation_id, request_id)
        return found.items, ConversationTurn(self._gateway.conversations, opened, owner, found.changes)

    async def find(self, conversation_id: str, owner: str) -> StoredObject[Conversation]:
        """Find a conversation, with the items of a response that has ended meanwhile.

        Raises:
            ObjectNotFoundError: There is no such conversation of the owner's.
        """
        return await self._gateway.conversations.objects.get(CONVERSATION, conversation_id, owner)

    async def settle(self, known: StoredObject[Conversation]) -> None:
        """Add the items of a response that has ended."""
        async with in_time(_CONNECT_SECONDS):
            await self._settled(known)

    async def _settled(self, known: StoredObject[Conversation]) -> Snapshot:
        conversations = self._gateway.conversations
        found = await conversations.snapshot(known.id)
        if not found.opened:
            return found
        ended = await self._end(Opened(known.id, found.opened), known.owner, found.since)
        return await conversations.snapshot(known.id) if ended else found

    async def _end(self, opened: Opened, owner: str, since: float) -> bool:
        """End a turn if its response has ended; returns whether nothing goes on any more."""
        conversations = self._gateway.conversations
        try:
            stored = await self._stored.find(response_id(opened.request), owner)
            if not stored.ended:
                return False
            document = await self._stored.document(stored, owner)
            whole = await self._stored.object_of(stored, owner)
        except RequestNotFoundError:
            if await conversations.time() - since < _UNKNOWN_FOR:
                return False
            await conversations.close(opened)
            return True
        if whole["status"] not in ("completed", "incomplete"):
            await conversations.close(opened)
            return True
        items = document.items + usable(whole["output"])
        await conversations.append(opened.conversation, "", items, request=opened.request)
        return True

    async def sweep(self) -> None:
        """Look for ends of turns that nobody has seen; of those that somebody else has not just looked for."""
        conversations = self._gateway.conversations
        for opened in await conversations.opened(_LOOKED_AT, _LOOK_AGAIN):
            with contained("objects", f"conversation {opened.conversation}"):
                await self._look_at(opened)

    async def _look_at(self, opened: Opened) -> None:
        conversations = self._gateway.conversations
        try:
            known = await conversations.objects.get(CONVERSATION, opened.conversation, ANYBODY)
            gone = (await self._settled(known)).opened != opened.request
        except ObjectNotFoundError:
            gone = True
        if gone:
            await conversations.close(opened)
