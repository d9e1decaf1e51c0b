"""The mocker in chats with tools, reasoning, forms to keep to and log probabilities."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dynamo_tasks.engines.mocker.engine import MockerArgs, MockerEngine
from dynamo_tasks.errors import ConfigError, InvalidRequestError
from dynamo_tasks.protocol.messages import MessageDelta, merge_messages
from dynamo_tasks.protocol.tokens import TokenDelta
from tests.support.own_engine import make_tokenizer

Work = Callable[[MockerEngine], Awaitable[None]]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]
NAMED = {"type": "function", "function": {"name": "now"}}


def with_engine(work: Work, **args: Any) -> None:
    async def main() -> None:
        engine = await MockerEngine(MockerArgs(**args))
        try:
            await work(engine)
            assert (engine.stats().running, engine.stats().waiting) == (0, 0)
        finally:
            await engine.stop()

    asyncio.run(main())


def chat(text: str = "what will the weather be?", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


async def deltas(
    engine: MockerEngine, payload: dict[str, Any], done: list[int] | None = None
) -> list[TokenDelta]:
    emitted = None if done is None else {0: done}
    return [delta async for delta in engine.generate(payload, output_token_ids=emitted)]


def whole(pieces: list[TokenDelta]) -> MessageDelta:
    message: MessageDelta | None = None
    for delta in pieces:
        message = merge_messages(message, delta.message)
    return message or MessageDelta("".join(delta.text for delta in pieces))


async def said(engine: MockerEngine, payload: dict[str, Any]) -> tuple[MessageDelta, str | None]:
    pieces = await deltas(engine, payload)
    return whole(pieces), pieces[-1].finish_reason


def names(message: MessageDelta) -> list[str | None]:
    return [call.name for call in message.tool_calls]


@pytest.mark.parametrize(
    ("asked", "expected", "reason"),
    [
        (chat(tools=TOOLS), ["weather"], "tool_calls"),
        (chat("weather or now?", tools=TOOLS), ["weather", "now"], "tool_calls"),
        (chat("weather or now?", tools=TOOLS, parallel_tool_calls=False), ["weather"], "tool_calls"),
        (chat("hello", tools=TOOLS), [], "stop"),
        (chat("the weatherman is no_weather and nowhere", tools=TOOLS), [], "stop"),
        (chat(tools=TOOLS, tool_choice="none"), [], "stop"),
        (chat("hello", tools=TOOLS, tool_choice="required"), ["weather"], "tool_calls"),
        (chat("now!", tools=TOOLS, tool_choice="required"), ["now"], "tool_calls"),
        (chat("weather", tools=TOOLS, tool_choice=NAMED), ["now"], "stop"),
        (
            chat("now", tools=TOOLS, tool_choice={"type": "allowed_tools", "mode": "required", "tools": [TOOLS[0]]}),
            ["weather"], "tool_calls",
        ),
    ],
)  # fmt: skip
def test_which_tools_are_called(asked: dict[str, Any], expected: list[str], reason: str) -> None:
    async def work(engine: MockerEngine) -> None:
        message, ended = await said(engine, asked)
        assert (names(message), ended) == (expected, reason)
        assert bool(message.content) == (not expected)
        for call in message.tool_calls:
            assert call.id
            arguments = json.loads(call.arguments)
            jsonschema.validate(arguments, WEATHER if call.name == "weather" else {"type": "object"})
        assert len({call.id for call in message.tool_calls}) == len(expected)
        assert await said(engine, asked) == (message, ended)

    with_engine(work)


def test_arguments_can_be_given_in_the_message() -> None:
    async def work(engine: MockerEngine) -> None:
        text = 'weather({"city": "Oslo", "days": 2}) and then weather: {"city": "Bergen"}, now {'
        message, _ = await said(engine, chat(text, tools=TOOLS))
        assert [(call.name, call.arguments) for call in message.tool_calls] == [
            ("weather", '{"city": "Oslo", "days": 2}'),
            ("weather", '{"city": "Bergen"}'),
            ("now", "{}"),
        ]

    with_engine(work)


def test_after_the_results_it_answers_with_them() -> None:
    async def work(engine: MockerEngine) -> None:
        call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        results = [{"role": "tool", "tool_call_id": "c", "content": text} for text in ("18 °C", "dry")]
        turns = [*chat()["messages"], {"role": "assistant", "tool_calls": [call]}, *results]
        message, reason = await said(engine, {"messages": turns, "tools": TOOLS})
        assert (message.content, message.tool_calls, reason) == ("Result: 18 °C\ndry", [], "stop")

    with_engine(work)


@pytest.mark.parametrize(("setting", "expected"), [("always", ["weather"]), ("never", [])])
def test_calls_without_a_name(setting: str, expected: list[str]) -> None:
    async def work(engine: MockerEngine) -> None:
        assert names((await said(engine, chat("hello", tools=TOOLS)))[0]) == expected
        assert names((await said(engine, chat("weather", tools=TOOLS)))[0]) == expected
        assert names((await said(engine, chat("hello", tools=TOOLS, tool_choice="required")))[0]) == [
            "weather"
        ]

    with_engine(work, tool_calls=setting)


def test_reasoning_comes_first_and_grows_with_the_effort() -> None:
    async def work(engine: MockerEngine) -> None:
        sizes = []
        for effort in ("minimal", "low", "medium", "high", "xhigh"):
            message, reason = await said(engine, chat(reasoning_effort=effort))
            sizes.append(len(message.reasoning.split()))
            assert message.content
            assert reason == "stop"
        assert sizes == [4, 8, 16, 32, 64]
        message, _ = await said(engine, chat(reasoning_effort="low", tools=TOOLS))
        assert message.reasoning
        assert names(message) == ["weather"]
        plain, reason = await said(engine, chat(reasoning_effort="none"))
        assert (plain.reasoning, reason) == ("", "length")

    with_engine(work)


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER}}},
        {"response_format": {"type": "json_object"}},
        {"guided_json": WEATHER},
        {"guided_json": json.dumps(WEATHER)},
        {"structured_outputs": {"json": WEATHER}},
    ],
)
def test_json(form: dict[str, Any]) -> None:
    async def work(engine: MockerEngine) -> None:
        for seed in range(5):
            message, reason = await said(engine, chat(seed=seed, **form))
            value = json.loads(message.content)
            assert isinstance(value, dict)
            if "json_object" not in str(form):
                jsonschema.validate(value, WEATHER)
            assert reason == "stop"

    with_engine(work)


def test_a_choice_of_texts() -> None:
    async def work(engine: MockerEngine) -> None:
        found = {
            (await said(engine, chat(seed=seed, guided_choice=["yes", "no"])))[0].content for seed in range(9)
        }
        assert found == {"yes", "no"}

    with_engine(work)


EVERYTHING: list[dict[str, Any]] = [
    chat('weather({"city": "Zürich 🙂"}) now', tools=TOOLS, reasoning_effort="low"),
    chat(
        response_format={"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER}},
        stop=['"days'],
    ),
    chat(tools=TOOLS, reasoning_effort="minimal", stop=["</think>"]),
    chat(reasoning_effort="minimal", logprobs=True, top_logprobs=2, max_tokens=30),
    {"prompt": "once", "logprobs": 1, "max_tokens": 9},
]


@pytest.mark.parametrize("payload", EVERYTHING, ids=range(len(EVERYTHING)))
@pytest.mark.parametrize("tokenizer", ["bytes", "files"])
def test_continued_at_every_token_it_is_the_same(
    payload: dict[str, Any], tokenizer: str, tmp_path: Path
) -> None:
    if tokenizer == "files":
        make_tokenizer(
            tmp_path, 'the weather in Zürich {"city": "x", "days": 2} <think></think>' * 9, size=400
        )
        tokenizer = str(tmp_path)

    async def work(engine: MockerEngine) -> None:
        pieces = await deltas(engine, payload)
        ids = [token for delta in pieces for token in delta.token_ids]
        text = "".join(delta.text for delta in pieces)
        logprobs = [entry for delta in pieces for entry in delta.logprobs or ()]
        assert len(logprobs) == (len(ids) if "logprobs" in payload else 0)
        singles = await _one_by_one(engine, payload, ids)
        for at in range(len(ids) + 1):
            rest = await deltas(engine, payload, ids[:at])
            both = [*singles[:at], *rest]
            assert ids[:at] + [token for delta in rest for token in delta.token_ids] == ids
            assert "".join(delta.text for delta in both) == text
            assert whole(both) == whole(pieces)
            assert [entry for delta in rest for entry in delta.logprobs or ()] == logprobs[at:]
            assert rest[-1].finish_reason == pieces[-1].finish_reason

    with_engine(work, tokenizer=tokenizer)


async def _one_by_one(engine: MockerEngine, payload: dict[str, Any], ids: list[int]) -> list[TokenDelta]:
    """What attempts stream each of which is lost after one more token."""
    out: list[TokenDelta] = []
    for at, token in enumerate(ids):
        source = engine.generate(payload, output_token_ids={0: ids[:at]} if at else None)
        delta = await anext(source)
        await source.aclose()
        assert delta.token_ids == [token]
        out.append(delta)
    return out


def test_log_probabilities_are_those_of_a_distribution() -> None:
    async def work(engine: MockerEngine) -> None:
        pieces = await deltas(engine, chat(logprobs=True, top_logprobs=20, max_tokens=50))
        entries = [entry for delta in pieces for entry in delta.logprobs or ()]
        assert "".join(entry["token"] for entry in entries) == "".join(delta.text for delta in pieces)
        offset = 0
        for entry in entries:
            top = entry["top_logprobs"]
            assert (len(top), len({other["token"] for other in top})) == (20, 20)
            assert top[0] == {name: entry[name] for name in ("token", "logprob", "bytes")}
            chances = [math.exp(other["logprob"]) for other in top]
            assert chances == sorted(chances, reverse=True)
            assert sum(chances) <= 1
            assert entry["text_offset"] == offset
            offset += len(entry["token"])

    with_engine(work)


def test_max_tokens_cuts_a_reply() -> None:
    async def work(engine: MockerEngine) -> None:
        message, reason = await said(engine, chat(tools=TOOLS, max_tokens=60))
        assert (names(message), reason) == (["weather"], "length")
        with pytest.raises(ValueError, match="Unterminated string"):
            json.loads(message.tool_calls[0].arguments)

    with_engine(work)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (
            chat("x", tools=[{"function": {"name": "f", "parameters": {"not": {}}}}], tool_choice="required"),
            "tools.f",
        ),
        (chat(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "gone"}}), "tool_choice"),
        (chat(response_format={"type": "json_object"}, guided_json={}), "guided_json"),
        (chat(guided_json="{"), "guided_json"),
        (chat(structured_outputs={"regex": "a"}), "regex"),
        (chat(structured_outputs={"choice": [1]}), "choice"),
        ({"prompt": "x", "echo": True, "logprobs": 1}, "echo"),
        ({"prompt": "x", "last_message": {"role": "user"}}, "last_message"),
        ({"prompt": "x", "last_message": {"role": "user", "content": 3}}, "last_message.content"),
    ],
)
def test_what_cannot_be_heeded_is_refused(asked: dict[str, Any], param: str) -> None:
    async def work(engine: MockerEngine) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            await deltas(engine, asked)
        assert (caught.value.param or "").startswith(param)

    with_engine(work)


def test_a_tokenizer_of_files(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, "tell me a story about the weather " * 9, size=400)

    async def work(engine: MockerEngine) -> None:
        pieces = await deltas(engine, {"prompt": "tell me a story", "max_tokens": 300})
        ids = [token for delta in pieces for token in delta.token_ids]
        assert pieces[-1].usage == {"prompt_tokens": 4, "completion_tokens": 300, "cached_tokens": 0}
        assert "".join(delta.text for delta in pieces) == engine.tokenizer.decode(ids)
        assert engine.card.tokenizer == str(tmp_path)

    with_engine(work, tokenizer=str(tmp_path))
    with pytest.raises(ConfigError, match="neither 'bytes' nor a folder"):
        MockerEngine(MockerArgs(tokenizer="/nowhere"))
