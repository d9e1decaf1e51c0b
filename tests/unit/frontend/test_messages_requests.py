"""Bodies of Anthropic's API: what they become, and what is refused by which name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dynamo_tasks.engines.images.messages import image_places, take_images
from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.frontend.messages.api import MessagesApi
from dynamo_tasks.frontend.messages.chat import chat_body, chat_request
from dynamo_tasks.frontend.messages.content import Shown
from dynamo_tasks.protocol.http.messages import parse_messages
from tests.support.bodies import CLAUDE_CODE

HI: list[Any] = [{"role": "user", "content": "hi"}]
TOOL = {"name": "f", "input_schema": {"type": "object"}}


def body(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "max_tokens": 5, "messages": HI} | more


def chat(**more: Any) -> dict[str, Any]:
    return chat_body(parse_messages(body(**more)))


def turn(role: str, *blocks: Any) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def image(**source: Any) -> dict[str, Any]:
    return {"type": "image", "source": source}


def test_images_become_parts_of_a_chat() -> None:
    use = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
    shot = image(type="base64", media_type="image/png", data="AAAA")
    link = image(type="url", url="https://a.example/b.png")
    messages = [
        turn("user", said("a"), said("b"), link, said("c"), link),
        turn("assistant", use),
        turn("user", {"type": "tool_result", "tool_use_id": "t1", "content": [said("one"), shot]}, shot),
    ]

    def part(url: str, *written: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": url}, "written": list(written)}

    data, url = "data:image/png;base64,AAAA", "https://a.example/b.png"
    first, _, result, last = chat(messages=messages)["messages"]
    assert first["content"] == [
        said("a\nb"), part(url, "messages[0].content[2]", "source.url"), said("c"),
        part(url, "messages[0].content[4]", "source.url"),
    ]  # fmt: skip
    assert result["role"] == "tool"
    assert result["content"] == [said("one"), part(data, "messages[2].content[0].content[1]", "source.data")]
    assert last == {"role": "user", "content": [part(data, "messages[2].content[1]", "source.data")]}
    assert image_places([first, result]) == [
        "messages[0].content[2]", "messages[0].content[4]", "messages[2].content[0].content[1]"
    ]  # fmt: skip
    with pytest.raises(InvalidRequestError) as caught:
        take_images({"messages": [result]})
    assert caught.value.param == "messages[2].content[0].content[1].source.data"


def test_a_conversation_becomes_a_chat() -> None:
    use = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
    result = {
        "type": "tool_result",
        "tool_use_id": "t1",
        "content": [said("one"), said("two")],
        "is_error": False,
    }
    messages = [
        turn("user", said("a"), said("b")),
        turn("assistant", {"type": "thinking", "thinking": "hm", "signature": "x"}, said("I "), said("call"), use),
        turn("user", result, said("go on")),
    ]  # fmt: skip
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    assert chat(messages=messages, system=[said("s1"), said("s2")])["messages"] == [
        {"role": "system", "content": "s1\ns2"},
        {"role": "user", "content": "a\nb"},
        {
            "role": "assistant", "content": "I call", "tool_calls": [call],
            "reasoning_content": "hm", "reasoning": "hm",
        },
        {"role": "tool", "tool_call_id": "t1", "name": "f", "content": "one\ntwo"},
        {"role": "user", "content": "go on"},
    ]  # fmt: skip


def test_turns_of_one_role_are_one() -> None:
    messages = [
        *HI,
        {"role": "user", "content": "there"},
        turn("assistant", said("a")),
        turn("assistant", said("b")),
        *HI,
    ]
    assert [message["content"] for message in chat(messages=messages)["messages"]] == [
        "hi\nthere",
        "ab",
        "hi",
    ]


def test_reminders_of_the_system_stay_in_their_place() -> None:
    messages = [*HI, {"role": "system", "content": "be brief"}]
    assert [message["role"] for message in chat(messages=messages)["messages"]] == ["user", "system"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any", "disable_parallel_tool_use": True}, {"tool_choice": "required", "parallel_tool_calls": False}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
    ],
)  # fmt: skip
def test_tools(choice: dict[str, Any], expected: dict[str, Any]) -> None:
    made = chat(
        tools=[{**TOOL, "description": "d", "cache_control": {"type": "ephemeral"}}], tool_choice=choice
    )
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert made["tools"] == [{"type": "function", "function": function}]
    assert {name: made[name] for name in ("tool_choice", "parallel_tool_calls") if name in made} == expected


@pytest.mark.parametrize(
    ("more", "effort", "thinks"),
    [
        ({}, None, None),
        ({"thinking": {"type": "disabled"}}, "none", False),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, "none", False),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}, "low", True),
        ({"thinking": {"type": "enabled", "budget_tokens": 9000}, "max_tokens": 20_000}, "high", True),
        ({"thinking": {"type": "adaptive"}}, "medium", True),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, "max", True),
    ],
)
def test_thinking(more: dict[str, Any], effort: str | None, thinks: bool | None) -> None:
    made = chat(**more)
    assert made.get("reasoning_effort") == effort
    assert made.get("chat_template_kwargs", {}).get("enable_thinking") == thinks


def test_a_shape_of_the_answer() -> None:
    shape = {"type": "json_schema", "schema": {"type": "object"}}
    for more in ({"output_config": {"format": shape}}, {"output_format": shape}):
        assert chat(**more)["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_options_of_the_request() -> None:
    options = {"background": True, "retention": 60, "timeout": 5, "priority": 3, "abandon_after": 9}
    given = body(**options, stream=True, service_tier="flex")
    asked = chat_request(parse_messages(given), given)
    assert asked.options() == {**options, "preemptible": True}
    assert (asked.stream, asked.limit) == (True, 5)


KIND = "messages[0].content[0].type"
REFUSED = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_token": 5}, "max_token"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [turn("user", image(type="file", file_id="f"))]}, "messages[0].content[0].source.type"),
    ({"messages": [turn("user", image(type="url"))]}, "messages[0].content[0].source.url"),
    ({"messages": [turn("user", image(type="base64", data="AA=="))]}, "messages[0].content[0].source.media_type"),
    ({"messages": [turn("user", {"type": "image"})]}, "messages[0].content[0].source"),
    ({"messages": [*HI, turn("assistant", image(type="url", url="x")), *HI]}, "messages[1].content[0].type"),
    ({"messages": [turn("user", {"type": "document"})]}, KIND),
    ({"messages": [turn("user", {"type": "text"})]}, "messages[0].content[0].text"),
    ({"messages": [turn("user", {"type": "tool_use", "id": "a", "name": "f", "input": {}})]}, KIND),
    ({"messages": [turn("user", {"type": "tool_result", "tool_use_id": "a"})]}, "messages[0].content[0].tool_use_id"),
    ({"messages": [*HI, {"role": "assistant", "content": "The"}]}, "messages[1].role"),
    ({"system": 5}, "system"),
    ({"temperature": 3}, "temperature"),
    ({"stop_sequences": [""]}, "stop_sequences[0]"),
    ({"stop_sequences": ["a"] * 17}, "stop_sequences"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tools": [{**TOOL, "name": "a b"}]}, "tools[0].name"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "required"}}, "tool_choice.type"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "often"}}, "thinking.type"),
    ({"service_tier": "gold"}, "service_tier"),
    ({"output_config": {"effort": "huge"}}, "output_config.effort"),
    ({"output_format": {"type": "xml", "schema": {}}}, "output_format.type"),
    ({"mcp_servers": [{"type": "url", "url": "http://x", "name": "x"}]}, "mcp_servers"),
    ({"container": "c1"}, "container"),
    ({"thread": {"type": "create"}}, "thread"),
    ({"timeout": -1}, "timeout"),
    ({"metadata": {"user_id": 5}}, "metadata.user_id"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "param"), REFUSED, ids=[f"{n}-{param}" for n, (_, param) in enumerate(REFUSED)]
)
def test_what_is_refused_is_named(more: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        MessagesApi().parse(json.dumps(body(**more)).encode())
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")


def test_tokens_are_counted_without_a_limit() -> None:
    assert parse_messages({"model": "tiny", "messages": HI}, counting=True).max_tokens is None


def test_a_request_of_claude_code() -> None:
    parsed = MessagesApi().parse(CLAUDE_CODE)
    made = parsed.body
    system, *turns = made["messages"]
    assert system["content"] == "You are Claude Code.\nTools are yours."  # the billing header is gone
    assert [message["role"] for message in turns] == ["user", "assistant", "tool", "tool", "user"]
    assert len(made["tools"]) == 2
    assert made["max_tokens"] == 32000
    assert parsed.request.user is None


def test_a_limit_beyond_the_context_is_left_to_the_model() -> None:
    parsed = MessagesApi().parse(json.dumps(body(max_tokens=32_000)).encode())
    assert parsed.body["max_tokens"] == 32_000
    assert parsed.body["shorten"] == {"limit": True}
    render = MessagesApi().render(parsed, {"prompt_token_ids": [1, 2]}, "r")
    assert render is not None
    assert Shown.decode(render.extra) == Shown(input_tokens=2, clipped=True)
