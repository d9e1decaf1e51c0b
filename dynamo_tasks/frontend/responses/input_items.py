"""The items that a request for a response stands for: its own, and those of what it follows."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.errors import InvalidRequestError, PreviousResponseError, RequestNotFoundError
from dynamo_tasks.frontend.gateway import Gateway
from dynamo_tasks.frontend.http_call import HttpCall
from dynamo_tasks.frontend.responses.document import MOST_BYTES, Document, size_of, usable
from dynamo_tasks.frontend.responses.names import input_id, owner_of, response_id
from dynamo_tasks.frontend.responses.stored import StoredResponses
from dynamo_tasks.frontend.responses.turns import ConversationTurn, Turns
from dynamo_tasks.protocol.http.items import Item, ItemReference, check_ids, parse_items, shown
from dynamo_tasks.protocol.http.openai import MAX_MESSAGES
from dynamo_tasks.protocol.http.responses import ResponseRequest

__all__ = ["InputItems"]

_MOST_REFERENCES = 64
"""Items of one input that stand for items elsewhere: each of other responses is read from Redis."""


class InputItems:
    """Puts documents together.

    Args:
        gateway: The way to Redis.
        turns: Of conversations.
    """

    def __init__(self, gateway: Gateway, turns: Turns):
        self._stored = StoredResponses(gateway)
        self._turns = turns

    async def of(self, request: ResponseRequest, call: HttpCall) -> tuple[Document, ConversationTurn | None]:
        """The document of a request, and its turn in its conversation.

        Raises:
            InvalidRequestError: An item is not valid, or there are too many of them.
            PreviousResponseError: What it follows is not there, or has not ended.
            ObjectNotFoundError: There is no such conversation of the API key's.
            ConversationLockedError: Another response goes on in it.
        """
        given = request.input or []
        items = await offload(16 * len(given), parse_items, given)
        turn = None
        if request.conversation_id is not None:
            known, turn = await self._turns.items(request.conversation_id, call.owner_key, call.request_id)
            check_ids(items, (item["id"] for item in known))
        else:
            known = await self._before(request.previous_response_id, call.owner_key)
        own = await self._resolved(items, known, call)
        total = len(known) + len(own)
        if total > MAX_MESSAGES:
            raise InvalidRequestError(
                f"input: {total} items with what came before; at most {MAX_MESSAGES} are allowed",
                param="input",
            )
        return Document(own, known), turn

    async def _before(self, name: str | None, owner_key: str) -> list[dict[str, Any]]:
        if name is None:
            return []
        try:
            stored = await self._stored.find(name, owner_key)
            if not stored.ended:
                raise PreviousResponseError(
                    f"previous response with id {name!r} has not ended", param="previous_response_id"
                )
            whole = await self._stored.object_of(stored, owner_key)
        except RequestNotFoundError:
            raise PreviousResponseError(
                f"previous response with id {name!r:.100} not found", param="previous_response_id"
            ) from None
        document = await self._stored.document(stored, owner_key)
        return document.context + document.items + usable(whole["output"])

    async def _resolved(
        self, items: list[Item], known: list[dict[str, Any]], call: HttpCall
    ) -> list[dict[str, Any]]:
        """Plain items; references are what they stand for."""
        references = sum(isinstance(item, ItemReference) for item in items)
        if references > _MOST_REFERENCES:
            raise InvalidRequestError(
                f"input: {references} references; at most {_MOST_REFERENCES} are allowed", param="input"
            )
        found = {item["id"]: item for item in known} if references else {}
        made, size = [], 0
        for place, item in enumerate(items):
            if isinstance(item, ItemReference):
                made.append(await self._referred(item.id, found, call, f"input[{place}]"))
                size += size_of(made[-1:])
                if size > MOST_BYTES:
                    raise InvalidRequestError(
                        f"input: its references stand for more than {MOST_BYTES} bytes", param="input"
                    )
            else:
                made.append(shown(item, item.id or input_id(call.request_id, place)))
        return made

    async def _referred(
        self, item_id: str, found: dict[str, dict[str, Any]], call: HttpCall, at: str
    ) -> dict[str, Any]:
        request_id = owner_of(item_id)
        if item_id not in found and request_id is not None:
            try:
                for item in await self._before(response_id(request_id), call.owner_key):
                    found.setdefault(item["id"], item)
            except PreviousResponseError:
                pass
        if item_id not in found:
            raise InvalidRequestError(f"{at}: item with id {item_id!r:.100} not found", param=at)
        return found[item_id]
