"""Payloads that are too much: refused with a clear error, quickly, and without an echo of what was sent."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.bodies import MAX_DEPTH, decode_object
from dynamo_tasks.protocol.http.openai import MAX_MESSAGES, ChatRequest, parse_request
from tests.support.promises import in_time

USER = {"role": "user", "content": "hi"}
HUGE = "x" * 3_000_000


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER], **fields}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": HUGE}, "model"),
        ({"user": HUGE}, "user"),
        ({"messages": [USER] * (MAX_MESSAGES + 1)}, "messages"),
        ({"messages": [{"role": HUGE, "content": ""}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 1025}]},
            "messages[0].content",
        ),
        ({"messages": [USER | {"name": HUGE}]}, "messages[0].name"),
        ({"stop": HUGE}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop_token_ids": [1] * 2000}, "stop_token_ids"),
        ({"logit_bias": {str(n): 1 for n in range(2000)}}, "logit_bias"),
        ({"tools": [{}] * 1000}, "tools"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_field_that_is_too_large_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(ChatRequest, chat(**fields))
    assert caught.value.param == param
    assert len(caught.value.message) < 500


def test_the_most_that_is_allowed_is_allowed() -> None:
    assert parse_request(ChatRequest, chat(messages=[USER] * MAX_MESSAGES, stop=["x" * 1024] * 16))


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_bounded(opening: bytes, closing: bytes) -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' + opening * (depth - 1) + b"1" + closing * (depth - 1) + b"}"

    assert decode_object(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 10 * MAX_DEPTH, 100_000):
        with pytest.raises(InvalidRequestError, match="nested more than 64 levels"):
            decode_object(nested(depth))


def test_many_brackets_that_are_not_deep_are_fine() -> None:
    assert decode_object(b'{"a": [' + b"[]," * 1000 + b'[]], "b": "' + b"[{" * 1000 + b'"}')


def test_unknown_fields_of_any_size_cost_nothing() -> None:
    """Similar names are looked for among short ones only: comparing a long one takes seconds."""

    def seconds() -> float:
        began = time.process_time()
        parse_request(ChatRequest, chat(**{HUGE: 1}))
        return time.process_time() - began

    in_time(seconds, 0.5)
