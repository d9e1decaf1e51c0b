"""Conversations and their items: the handlers under ``/v1/conversations``."""

from __future__ import annotations

import secrets
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.frontend.gateway import Gateway
from dynamo_tasks.frontend.http.errors import json_response
from dynamo_tasks.frontend.http.query import listed, page_query
from dynamo_tasks.frontend.http_call import call_of, count_call, raw_body
from dynamo_tasks.frontend.responses.stored import large
from dynamo_tasks.frontend.responses.turns import Turns
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.protocol.http.bodies import decode_object
from dynamo_tasks.protocol.http.conversations import (
    ConversationChange,
    ConversationRequest,
    ItemsRequest,
    parse_body,
)
from dynamo_tasks.protocol.http.items import ItemReference, check_ids, parse_items, shown
from dynamo_tasks.protocol.http.openai import MAX_MESSAGES
from dynamo_tasks.store.conversations import CONVERSATION, Conversation
from dynamo_tasks.store.objects import StoredObject

__all__ = ["ConversationRoutes"]

_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


class ConversationRoutes:
    """The handlers.

    Args:
        gateway: The way to Redis.
        settings: Of the HTTP side.
    """

    def __init__(self, gateway: Gateway, settings: FrontendSettings):
        self._gateway = gateway
        self._retention = settings.conversation_retention
        self._turns = Turns(gateway, self._retention)

    def routes(self) -> list[Route]:
        """Its paths."""
        one = "/v1/conversations/{id}"
        return [
            Route("/v1/conversations", self.create, methods=["POST"], name="conversations"),
            Route(one, self.one, methods=["GET", "POST", "DELETE"], name="conversations"),
            Route(f"{one}/items", self.items, methods=["GET", "POST"], name="conversation_items"),
            Route(f"{one}/items/{{item}}", self.item, methods=["GET", "DELETE"], name="conversation_items"),
        ]

    async def create(self, request: Request) -> Response:
        """``POST /v1/conversations``."""
        call = call_of(request)
        await count_call(self._gateway, call)
        raw = await raw_body(request, empty=b"{}")
        body = parse_body(ConversationRequest, decode_object(raw))
        items = await offload(len(raw), _plain, body.items or [])
        conversations, name = self._gateway.conversations, f"conv_{secrets.token_hex(16)}"
        made = await conversations.objects.create(
            CONVERSATION, name, call.owner_key, Conversation(body.metadata or {}), ttl=self._retention
        )
        if items:
            await conversations.append(name, call.owner_key, items)
        return json_response(_shown(made))

    async def one(self, request: Request) -> Response:
        """``GET``, ``POST`` and ``DELETE /v1/conversations/{id}``."""
        name, owner = request.path_params["id"], call_of(request).owner_key
        if request.method == "POST":
            await count_call(self._gateway, call_of(request))
        conversations = self._gateway.conversations
        if request.method == "DELETE":
            await conversations.delete(name, owner)
            return json_response({"id": name, "object": "conversation.deleted", "deleted": True})
        if request.method == "POST":
            change = parse_body(ConversationChange, decode_object(await raw_body(request)))
            metadata = change.metadata or {}
            changed = await conversations.objects.change(
                CONVERSATION, name, owner, lambda _: Conversation(metadata)
            )
            return json_response(_shown(changed))
        return json_response(_shown(await self._turns.find(name, owner)))

    async def items(self, request: Request) -> Response:
        """``GET`` and ``POST /v1/conversations/{id}/items``."""
        if request.method == "POST":
            return await self._add(request)
        asked = page_query(request)
        known = await self._settled(request)
        found, more = await self._gateway.conversations.page(
            known.id, order=asked.order, after=asked.after, limit=asked.limit
        )
        return await large(listed(found, more=more))

    async def _add(self, request: Request) -> Response:
        await count_call(self._gateway, call_of(request))
        raw = await raw_body(request)
        body = parse_body(ItemsRequest, decode_object(raw))
        items = await offload(len(raw), _plain, body.items)
        known = await self._settled(request)
        await self._gateway.conversations.append(known.id, known.owner, items, most=MAX_MESSAGES)
        return await large(listed(items, more=False))

    async def item(self, request: Request) -> Response:
        """``GET`` and ``DELETE /v1/conversations/{id}/items/{item}``."""
        known, item_id = await self._settled(request), request.path_params["item"]
        if request.method == "DELETE":
            await self._gateway.conversations.remove(known.id, known.owner, item_id)
            return json_response(_shown(known))
        return await large(await self._gateway.conversations.item(known.id, item_id))

    async def _settled(self, request: Request) -> StoredObject[Conversation]:
        known = await self._turns.find(request.path_params["id"], call_of(request).owner_key)
        await self._turns.settle(known)
        return known


def _plain(given: list[Any]) -> list[dict[str, Any]]:
    made = []
    items = parse_items(given, "items")
    check_ids(items, (), "items")
    for place, item in enumerate(items):
        if isinstance(item, ItemReference):
            where = f"items[{place}].type"
            raise InvalidRequestError(f"{where}: a conversation holds items, not references", param=where)
        plain = shown(item, "")
        plain["id"] = item.id or f"{_PREFIXES[plain['type']]}_{secrets.token_hex(16)}"
        made.append(plain)
    return made


def _shown(conversation: StoredObject[Conversation]) -> dict[str, Any]:
    return {
        "id": conversation.id, "object": "conversation", "created_at": int(conversation.created),
        "metadata": conversation.data.metadata,
    }  # fmt: skip
