"""``/v1/batches`` in the OpenAPI document."""

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

__all__ = ["BATCHES", "BATCHES_SCHEMAS"]

_BATCH = {200: json_of(ref("Batch"))}
_STATUS = (
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled",
)  # fmt: skip
_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")

BATCHES: dict[str, Any] = {
    "/v1/batches": {
        "get": get(
            "list_batches", "Batches, the newest first.", {200: json_of(ref("Batches"))},
            parameters=page_parameters(100),
        ),
        "post": operation(
            "create_batch", "Run the requests of a file.", _BATCH, (*ALWAYS, 409, 413, 415, 429),
            requestBody={"required": True, "content": json_of(ref("BatchRequest"))},
        ),
    },
    "/v1/batches/{id}": {"get": get("batch", "Where a batch stands.", _BATCH, 404, parameters=[ID])},
    "/v1/batches/{id}/cancel": {
        "post": operation("cancel_batch", "Cancel a batch.", _BATCH, (*ALWAYS, 404, 409), parameters=[ID])
    },
}  # fmt: skip
"""The paths."""

BATCHES_SCHEMAS: dict[str, Any] = {
    "Batch": object_of(
        {
            "id": TEXT,
            "object": {"const": "batch"},
            "endpoint": TEXT,
            "model": or_null("string"),
            "errors": {
                "anyOf": [
                    {"type": "null"},
                    object_of({"object": {"const": "list"}, "data": list_of(ref("BatchError"))}),
                ]
            },
            "input_file_id": TEXT,
            "completion_window": TEXT,
            "status": {"enum": list(_STATUS)},
            "output_file_id": or_null("string"),
            "error_file_id": or_null("string"),
            "created_at": COUNT,
            "expires_at": COUNT,
            **{f"{name}_at": or_null("integer") for name in _TIMES},
            "request_counts": object_of({"total": COUNT, "completed": COUNT, "failed": COUNT}),
            "usage": {"type": "object"},
            "metadata": or_null("object"),
        }
    ),
    "BatchError": object_of(
        {"code": TEXT, "message": TEXT, "param": or_null("string"), "line": or_null("integer")}
    ),
    "Batches": page_of("Batch"),
}
"""The schemas of their answers."""
