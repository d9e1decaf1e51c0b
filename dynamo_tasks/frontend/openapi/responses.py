"""``/v1/responses`` in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.frontend.openapi.words import (
    ALWAYS,
    COUNT,
    ID,
    TEXT,
    get,
    json_of,
    list_of,
    object_of,
    operation,
    or_null,
    page_of,
    page_parameters,
    ref,
)
from dynamo_tasks.protocol.http.conversations import ConversationChange, ConversationRequest, ItemsRequest
from dynamo_tasks.protocol.http.responses import ResponseRequest

__all__ = ["RESPONSES", "RESPONSES_BODIES", "RESPONSES_SCHEMAS"]

RESPONSES_BODIES = (ResponseRequest, ConversationRequest, ConversationChange, ItemsRequest)
"""Types of the bodies."""

_STREAM = [
    ID,
    {"name": "stream", "in": "query", "required": False, "schema": {"enum": ["true", "false", "1", "0", ""]}},
    {"name": "starting_after", "in": "query", "required": False,
     "schema": {"type": "integer", "minimum": 0, "maximum": 2**53}},
]  # fmt: skip
_EVENTS = {"text/event-stream": {"schema": TEXT}}
_ONE = {200: json_of(ref("Response"))}
_ANY = {200: {**json_of(ref("Response")), **_EVENTS}, 204: None}
_MISSED = (404, 410)
_ITEMS = {200: json_of(ref("Items"))}
_CONVERSATION = {200: json_of(ref("Conversation"))}
_CHANGED = (*ALWAYS, 404, 409, 413, 415, 429)
_ONE_ITEM = [ID, {**ID, "name": "item"}]
_DELETED = {200: json_of(ref("Deleted"))}

RESPONSES: dict[str, Any] = {
    "/v1/responses/{id}": {
        "get": get("response", "A stored response, or its stream.", _ANY, *_MISSED, 500, parameters=_STREAM),
        "delete": get("delete_response", "Delete a stored response.", _DELETED, *_MISSED, parameters=[ID]),
    },
    "/v1/responses/{id}/cancel": {
        "post": operation(
            "cancel_response", "Cancel a response in the background.", _ONE, (*ALWAYS, *_MISSED), parameters=[ID]
        )
    },
    "/v1/responses/{id}/input_items": {
        "get": get(
            "input_items", "The items of its request.", _ITEMS, *_MISSED,
            parameters=[ID, *page_parameters(100)],
        )
    },
    "/v1/responses/input_tokens": {
        "post": operation(
            "input_tokens", "The tokens that a request would have.", {200: json_of(ref("InputTokens"))},
            (*ALWAYS, 404, 409, 413, 415, 429, 500),
            requestBody={"required": True, "content": json_of(ref("ResponseRequest"))},
        )
    },
    "/v1/conversations": {
        "post": operation(
            "create_conversation", "A conversation.", _CONVERSATION, _CHANGED,
            requestBody={"required": False, "content": json_of(ref("ConversationRequest"))},
        )
    },
    "/v1/conversations/{id}": {
        "get": get("conversation", "A conversation.", _CONVERSATION, 404, parameters=[ID]),
        "post": operation(
            "change_conversation", "Change its metadata.", _CONVERSATION, _CHANGED, parameters=[ID],
            requestBody={"required": True, "content": json_of(ref("ConversationChange"))},
        ),
        "delete": get(
            "delete_conversation", "Delete it, with its items.", _DELETED, 404, parameters=[ID]
        ),
    },
    "/v1/conversations/{id}/items": {
        "get": get(
            "conversation_items", "Its items.", _ITEMS, 404, 410, parameters=[ID, *page_parameters(100)]
        ),
        "post": operation(
            "add_items", "Add items.", _ITEMS, (*_CHANGED, 410), parameters=[ID],
            requestBody={"required": True, "content": json_of(ref("ItemsRequest"))},
        ),
    },
    "/v1/conversations/{id}/items/{item}": {
        "get": get("conversation_item", "An item.", {200: json_of(ref("Item"))}, 404, 410, parameters=_ONE_ITEM),
        "delete": get("delete_item", "Delete an item.", _CONVERSATION, 404, 410, parameters=_ONE_ITEM),
    },
}  # fmt: skip
"""The paths, but for the one that submits."""

RESPONSES_SCHEMAS: dict[str, Any] = {
    "ResponseUsage": object_of({"input_tokens": COUNT, "output_tokens": COUNT, "total_tokens": COUNT}),
    "Response": object_of(
        {
            "id": TEXT,
            "object": {"const": "response"},
            "created_at": COUNT,
            "completed_at": or_null("integer"),
            "status": {"enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]},
            "model": TEXT,
            "output": list_of(ref("Item")),
            "usage": {"anyOf": [ref("ResponseUsage"), {"type": "null"}]},
            "error": or_null("object"),
            "incomplete_details": or_null("object"),
            "metadata": {"type": "object"},
            "previous_response_id": or_null("string"),
        }
    ),
    "Item": object_of({"id": TEXT, "type": TEXT}, status=TEXT),
    "Items": page_of("Item"),
    "InputTokens": object_of({"object": {"const": "response.input_tokens"}, "input_tokens": COUNT}),
    "Conversation": object_of(
        {"id": TEXT, "object": {"const": "conversation"}, "created_at": COUNT, "metadata": {"type": "object"}}
    ),
    "Deleted": object_of({"id": TEXT, "object": TEXT, "deleted": {"const": True}}),
}
"""The schemas of their answers."""
