"""Schemas of answers, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.frontend.openapi.words import COUNT, NUMBER, TEXT, list_of, object_of, or_null, ref
from dynamo_tasks.protocol.states import State

__all__ = ["SCHEMAS"]

_CREATED = {"id": TEXT, "object": TEXT, "created": {"type": "integer"}, "model": TEXT}
SCHEMAS: dict[str, Any] = {
    "Error": object_of(
        {"error": object_of({"message": TEXT, "type": TEXT, "param": or_null("string"), "code": TEXT})}
    ),
    "Usage": object_of(
        {"prompt_tokens": COUNT, "total_tokens": COUNT},
        completion_tokens=COUNT,
        prompt_tokens_details=object_of({"cached_tokens": COUNT}),
    ),
    "ChatCompletion": object_of(
        {
            **_CREATED,
            "choices": list_of(
                object_of(
                    {
                        "index": COUNT,
                        "message": object_of({"role": TEXT, "content": or_null("string")}),
                        "finish_reason": or_null("string"),
                    }
                )
            ),
            "usage": ref("Usage"),
        },
        service_tier=TEXT,
    ),
    "Completion": object_of(
        {
            **_CREATED,
            "choices": list_of(object_of({"index": COUNT, "text": TEXT, "finish_reason": or_null("string")})),
            "usage": ref("Usage"),
        },
        service_tier=TEXT,
    ),
    "Embeddings": object_of(
        {
            "object": TEXT,
            "model": TEXT,
            "data": list_of(
                object_of({"object": TEXT, "index": COUNT, "embedding": {"anyOf": [list_of(NUMBER), TEXT]}})
            ),
            "usage": ref("Usage"),
        }
    ),
    "Accepted": object_of({"id": TEXT, "status": {"const": "queued"}}),
    "Model": object_of(
        {"id": TEXT, "object": TEXT, "created": {"type": "integer"}, "owned_by": TEXT},
        max_model_len=COUNT,
        state={"enum": ["ready", "starting", "idle", "asleep", "unavailable"]},
    ),
    "Models": object_of({"object": TEXT, "data": list_of(ref("Model"))}),
    "Request": object_of(
        {
            "id": TEXT,
            "object": {"const": "request"},
            "status": {"enum": [state.lower() for state in State]},
            "endpoint": TEXT,
            "model": or_null("string"),
            "created": {"type": "integer"},
            "attempts": COUNT,
            "position": or_null("integer"),
            "reason": or_null("string"),
            "last_event": TEXT,
            "finish_reason": or_null("string"),
            "usage": {"anyOf": [ref("Usage"), {"type": "null"}]},
            "error": or_null("object"),
            "stream": TEXT,
        }
    ),
    "StreamToken": object_of(
        {
            "id": TEXT,
            "object": {"const": "stream_token"},
            "token": or_null("string"),
            "expires_at": or_null("integer"),
            "stream": TEXT,
        }
    ),
    "Status": object_of({"status": {"enum": ["healthy", "unhealthy", "alive"]}}, reason=TEXT),
    "Ready": object_of(
        {"ready": {"type": "boolean"}}, components={"type": "object"}, models=list_of(TEXT), reason=TEXT
    ),
}
