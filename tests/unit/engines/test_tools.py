"""Tools of a chat request, refused or passed on to the parsers."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from dynamo_tasks.engines.parsers.tool_parsers import check_parsers
from dynamo_tasks.engines.text.chats.tools import chat_of
from dynamo_tasks.errors import ConfigError, InvalidRequestError
from dynamo_tasks.protocol.instances import ModelCard

TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
NAMED = {"type": "function", "function": {"name": "now"}}
PLAIN = ModelCard(name="m")
CALLS = ModelCard(name="m", tool_call_parser="hermes")
REASONS = ModelCard(name="m", reasoning_parser="qwen3")


@pytest.mark.parametrize(
    ("card", "body", "expected"),
    [
        (PLAIN, {"tools": TOOLS, "tool_choice": "auto"}, None),
        (CALLS, {}, None),
        (CALLS, {"tools": TOOLS, "model": "m"}, {"tools": TOOLS}),
        (CALLS, {"tools": TOOLS, "tool_choice": NAMED}, {"tools": TOOLS, "tool_choice": NAMED}),
        (REASONS, {"messages": []}, {}),
    ],
)
def test_what_parsers_get(card: ModelCard, body: dict[str, Any], expected: Any) -> None:
    assert chat_of(body, card) == expected


@pytest.mark.parametrize(
    ("card", "body", "param", "says"),
    [
        (PLAIN, {"tools": TOOLS, "tool_choice": "required"}, "tool_choice", "without a tool-call parser"),
        (PLAIN, {"tools": TOOLS, "tool_choice": NAMED}, "tool_choice", "without a tool-call parser"),
        (CALLS, {"tools": TOOLS, "tool_choice": "maybe"}, "tool_choice", "none, auto, required"),
        (CALLS, {"tool_choice": "required"}, "tool_choice", "there are no tools"),
        (CALLS, {"tools": TOOLS, "tool_choice": {"function": {"name": "x"}}}, "tool_choice", "now, not 'x'"),
        (CALLS, {"tools": TOOLS, "tool_choice": {"function": 3}}, "tool_choice", "one of now"),
        (CALLS, {"tools": ["now"]}, "tools[0]", "function"),
        (CALLS, {"tools": [*TOOLS, {"function": {"name": 3}}]}, "tools[1].function.name", "string"),
        (
            CALLS,
            {"tools": [{"function": {"name": "a", "parameters": [1]}}]},
            "tools[0].function.parameters",
            "schema",
        ),
    ],
)
def test_bad_tools(card: ModelCard, body: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says) as caught:
        chat_of(body, card)
    assert caught.value.param == param


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_parsers_need_vllm() -> None:
    check_parsers(tool_call_parser=None, reasoning_parser=None)
    with pytest.raises(ConfigError, match="needs vLLM, which is not installed"):
        check_parsers(tool_call_parser="hermes", reasoning_parser=None)
