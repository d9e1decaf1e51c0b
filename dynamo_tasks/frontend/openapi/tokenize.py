"""``/tokenize`` and ``/detokenize`` in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.frontend.openapi.words import (
    ALWAYS,
    COUNT,
    TEXT,
    json_of,
    list_of,
    object_of,
    operation,
    ref,
)

__all__ = ["TOKENS", "TOKENS_SCHEMAS"]

_FLAG = {"type": ["boolean", "null"]}
_MODEL = {
    "type": ["string", "null"],
    "minLength": 1,
    "maxLength": 256,
    "description": "May be missing where one is served.",
}
_PROMPT = object_of(
    {"prompt": {"type": "string", "minLength": 1}},
    model=_MODEL, add_special_tokens=_FLAG, return_token_strs=_FLAG,
)  # fmt: skip
_CHAT = object_of(
    {"messages": {"type": "array", "items": ref("Message"), "minItems": 1}},
    model=_MODEL, add_generation_prompt=_FLAG, add_special_tokens=_FLAG, return_token_strs=_FLAG,
    tools={"type": "array", "items": {"type": "object"}}, chat_template_kwargs={"type": "object"},
)  # fmt: skip

TOKENS_SCHEMAS = {
    "Tokens": object_of(
        {
            "count": COUNT,
            "max_model_len": COUNT,
            "tokens": list_of(COUNT),
            "token_strs": {"anyOf": [list_of(TEXT), {"type": "null"}]},
        }
    ),
    "Prompt": object_of({"prompt": TEXT}),
}


def _post(name: str, summary: str, body: dict[str, Any], answer: str) -> dict[str, Any]:
    return {
        "post": operation(
            name, summary, {200: json_of(ref(answer))}, (*ALWAYS, 404, 413, 415, 429, 500, 504),
            requestBody={"required": True, "content": json_of(body)},
        )
    }  # fmt: skip


TOKENS = {
    "/tokenize": _post(
        "tokenize", "The tokens of a prompt or a chat.", {"anyOf": [_PROMPT, _CHAT]}, "Tokens"
    ),
    "/detokenize": _post(
        "detokenize", "The text of tokens.", object_of({"tokens": list_of(COUNT)}, model=_MODEL), "Prompt"
    ),
}
"""Their operations, by path."""
