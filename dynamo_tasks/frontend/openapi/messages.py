"""``/v1/messages`` in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.frontend.openapi.words import (
    ALWAYS,
    COUNT,
    EVENTS,
    IDEMPOTENCY,
    POSTED,
    TEXT,
    json_of,
    list_of,
    object_of,
    operation,
    or_null,
    ref,
)

__all__ = ["MESSAGES", "MESSAGES_SCHEMAS"]

_LIMITED = object_of({"max_tokens": {"type": "integer"}})
"""What a message needs besides; its tokens can be counted without."""


def _post(
    name: str, summary: str, body: dict[str, Any], answers: dict[int, Any], *parameters: dict[str, Any]
) -> dict[str, Any]:
    return operation(
        name, summary, answers, (*ALWAYS, *POSTED), error="MessagesError", parameters=list(parameters),
        requestBody={"required": True, "content": json_of(body)},
    )  # fmt: skip


MESSAGES: dict[str, Any] = {
    "/v1/messages": {
        "post": _post(
            "messages", "A message.", {"allOf": [ref("MessagesRequest"), _LIMITED]},
            {200: {**json_of(ref("AssistantMessage")), **EVENTS}, 202: json_of(ref("Accepted"))},
            IDEMPOTENCY,
        )
    },
    "/v1/messages/count_tokens": {
        "post": _post(
            "count_tokens", "The number of tokens of a prompt.", ref("MessagesRequest"),
            {200: json_of(object_of({"input_tokens": COUNT}))},
        )
    },
}  # fmt: skip
"""The paths."""

MESSAGES_SCHEMAS: dict[str, Any] = {
    "MessagesError": object_of(
        {
            "type": {"const": "error"},
            "error": object_of({"type": TEXT, "message": TEXT, "code": TEXT, "param": or_null("string")}),
            "request_id": or_null("string"),
        }
    ),
    "AssistantMessage": object_of(
        {
            "id": TEXT,
            "type": {"const": "message"},
            "role": {"const": "assistant"},
            "model": TEXT,
            "content": list_of(object_of({"type": {"enum": ["text", "thinking", "tool_use"]}})),
            "stop_reason": {
                "enum": [
                    "end_turn",
                    "max_tokens",
                    "model_context_window_exceeded",
                    "stop_sequence",
                    "tool_use",
                ]
            },
            "stop_sequence": or_null("string"),
            "usage": object_of(
                {
                    "input_tokens": COUNT,
                    "cache_creation_input_tokens": COUNT,
                    "cache_read_input_tokens": COUNT,
                    "output_tokens": COUNT,
                },
                service_tier=TEXT,
            ),
        }
    ),
}
"""The schemas of their answers."""
