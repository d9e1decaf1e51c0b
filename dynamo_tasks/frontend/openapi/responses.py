"""``/v1/responses`` in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.frontend.openapi.files import page_of, page_parameters
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
    ref,
)

__all__ = ["RESPONSES", "RESPONSES_SCHEMAS"]

_STREAM = [
    ID,
    {"name": "stream", "in": "query", "required": False, "schema": {"enum": ["true", "false", "1", "0", ""]}},
    {"name": "starting_after", "in": "query", "required": False,
     "schema": {"type": "integer", "minimum": 0, "maximum": 2**53}},
]  # fmt: skip
_EVENTS = {"text/event-stream": {"schema": TEXT}}
_ONE = {200: json_of(ref("Response"))}
_ANY = {200: {**json_of(ref("Response")), **_EVENTS}}
_MISSED = (404, 410)
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
            "input_items", "The items of its request.", {200: json_of(ref("Items"))}, *_MISSED,
            parameters=[ID, *page_parameters(100)],
        )
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
    "Deleted": object_of({"id": TEXT, "object": TEXT, "deleted": {"const": True}}),
}
"""The schemas of their answers."""
