"""Images at the mocker: counted, part of what the text follows from, never looked at."""

import asyncio
from typing import Any

import pytest

from dynamo_tasks.engines.mocker.engine import MockerArgs, MockerEngine
from dynamo_tasks.errors import ContextLengthError, InvalidRequestError
from dynamo_tasks.protocol.tokens import CompletionAggregate
from tests.support.pictures import image_part, picture, text_part

RED, BLUE = image_part(picture(255)), image_part(picture(0, 0, 255))
WIDE = image_part(picture(1, width=280, height=28))


def answers(*contents: list[Any], **args: Any) -> list[dict[str, Any]]:
    async def main() -> list[dict[str, Any]]:
        engine = await MockerEngine(MockerArgs(**args))
        try:
            return [await answered(engine, content) for content in contents]
        finally:
            await engine.stop()

    return asyncio.run(main())


async def answered(engine: MockerEngine, content: list[Any]) -> dict[str, Any]:
    out = CompletionAggregate()
    payload = {"messages": [{"role": "user", "content": content}], "max_tokens": 8}
    async for delta in engine.generate(payload):
        out.add(delta)
    return out.result()


def test_text_and_usage_follow_from_the_images() -> None:
    ask = text_part("?")
    red, again, blue, turned, wide = answers(
        [RED, BLUE, ask], [RED, BLUE, ask], [BLUE, BLUE, ask], [BLUE, RED, ask], [RED, WIDE, ask], images=True
    )
    assert red["text"] == again["text"]
    assert len({one["text"] for one in (red, blue, turned, wide)}) == 4
    assert wide["usage"]["prompt_tokens"] == red["usage"]["prompt_tokens"] + 9


def test_the_context_holds_images_too() -> None:
    with pytest.raises(ContextLengthError, match="maximum context length is 100"):
        answers([image_part(picture(1, width=300, height=300))], images=True, max_model_len=100)


def test_without_the_setting_it_takes_text_alone() -> None:
    with pytest.raises(InvalidRequestError, match="must be 'text'"):
        answers([RED])


def test_tools_are_called_beside_images() -> None:
    tool = {
        "type": "function",
        "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
    }

    async def main() -> dict[str, Any]:
        engine = await MockerEngine(MockerArgs(images=True))
        out = CompletionAggregate()
        payload = {
            "messages": [{"role": "user", "content": [RED, text_part("look at it")]}],
            "tools": [tool], "tool_choice": "required",
        }  # fmt: skip
        async for delta in engine.generate(payload):
            out.add(delta)
        await engine.stop()
        return out.result()

    assert asyncio.run(main())["message"]["tool_calls"][0]["name"] == "look"
