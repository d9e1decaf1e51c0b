"""``/v1/usage`` in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.frontend.access.usage_report import MOST_ROWS
from dynamo_tasks.frontend.openapi.words import (
    COUNT,
    NUMBER,
    TEXT,
    get,
    json_of,
    object_of,
    page_of,
    page_parameters,
    ref,
)

__all__ = ["USAGE", "USAGE_SCHEMAS"]


def _text(name: str, most: int) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": {"type": "string", "maxLength": most}}


def _day(name: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": {"type": "string", "format": "date"}}


_FORMAT = {"name": "format", "in": "query", "required": False, "schema": {"enum": ["csv", "json"]}}
_ANSWER = {**json_of(ref("UsageRows")), "text/csv": {"schema": TEXT}}

USAGE: dict[str, Any] = {
    "/v1/usage": {
        "get": get(
            "list_usage", "What API keys have used, by day and model: a key sees its own, an admin's sees all.",
            {200: _ANSWER},
            parameters=page_parameters(
                MOST_ROWS, _day("start_date"), _day("end_date"), _text("key", 64), _text("tenant", 64),
                _text("model", 256), _FORMAT,
            ),
        ),
    },
}  # fmt: skip

USAGE_SCHEMAS: dict[str, Any] = {
    "UsageRow": object_of(
        {
            "id": TEXT, "object": {"const": "usage"}, "date": {"type": "string", "format": "date"}, "key_id": TEXT,
            "key_name": TEXT, "tenant": TEXT, "model": TEXT, "requests": COUNT, "errors": COUNT, "input_tokens": COUNT,
            "cached_tokens": COUNT, "output_tokens": COUNT, "reasoning_tokens": COUNT, "ttft_ms_sum": COUNT,
            "ttft_count": COUNT, "cost": NUMBER,
        }
    ),
    "UsageRows": page_of("UsageRow"),
}  # fmt: skip
