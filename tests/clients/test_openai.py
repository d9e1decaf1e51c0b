"""OpenAI's client against the server that the other clients use: chats with tools, schemas and thoughts."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.support.clients import Served

pytestmark = [pytest.mark.slow, pytest.mark.clients]

HI: list[Any] = [{"role": "user", "content": "hi"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0)


def test_a_chat_and_its_stream(client: openai.OpenAI) -> None:
    asked: Any = {"model": "mocker", "max_tokens": 30, "messages": HI}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(stream=True, **asked))
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    )
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"


def test_a_loop_of_tools(client: openai.OpenAI) -> None:
    turns: list[Any] = [{"role": "user", "content": 'ask weather({"city": "Oslo"}), please'}]
    said = client.chat.completions.create(model="mocker", messages=turns, tools=[WEATHER]).choices[0].message
    call: Any = (said.tool_calls or [])[0]
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    turns += [said, {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"}]
    answer = client.chat.completions.create(model="mocker", messages=turns, tools=[WEATHER])
    assert answer.choices[0].message.content == "Result: 18 degrees"


def test_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=HI)
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.chat.completions.create(
            model="mocker", messages=[{"role": "user", "content": "long " * 10_000}]
        )
