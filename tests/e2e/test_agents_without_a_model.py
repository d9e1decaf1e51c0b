"""Agents against the mocker, with the real ``openai`` client: tools, JSON, reasoning; and a worker that is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.support.processes import Frontend, Worker, together
from tests.support.server import RedisServer

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


class Forecast(BaseModel):
    city: str
    kind: Literal["sun", "rain"]
    hours: list[int]


@dataclass
class Fleet:
    client: openai.OpenAI
    workers: tuple[Worker, Worker]


@pytest.fixture(scope="module")
def fleet(redis_server: RedisServer) -> Iterator[Fleet]:
    env = {"DYNAMO_NAMESPACE": "agents"}
    settings = ("Worker.engine=mocker", "Worker.token_delay_ms=2", "Worker.max_num_seqs=4")
    url = redis_server.url
    with (
        together(
            Worker(url, settings=settings, env=env, name="a"),
            Worker(url, settings=settings, env=env, name="b"),
            Frontend(url, env=env),
        ) as (one, two, frontend),
        openai.OpenAI(base_url=f"{frontend.base_url}/v1", api_key="-", max_retries=0) as client,
    ):
        yield Fleet(client, (one, two))


def _ask(fleet: Fleet, *messages: Any, **more: Any) -> Any:
    said = [
        {"role": "user", "content": message} if isinstance(message, str) else message for message in messages
    ]
    return fleet.client.chat.completions.create(model="mocker", messages=said, **more)


def test_an_agent_runs_its_tool_and_gets_an_answer(fleet: Fleet) -> None:
    question = "what is the weather?"
    first = _ask(fleet, question, tools=TOOLS).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls
    assert isinstance(json.loads(call.function.arguments)["city"], str)
    result = {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"}
    second = _ask(fleet, question, first.message, result, tools=TOOLS).choices[0]
    assert (second.message.content, second.finish_reason) == ("Result: 18 degrees", "stop")
    assert _ask(fleet, "hello", tools=TOOLS).choices[0].message.tool_calls is None
    forced = _ask(fleet, "hello", tools=TOOLS, tool_choice="required").choices[0]
    assert forced.message.tool_calls[0].function.name == "weather"


def test_a_parsed_answer_is_of_its_type(fleet: Fleet) -> None:
    answer = fleet.client.chat.completions.parse(
        model="mocker", messages=[{"role": "user", "content": "the forecast"}], response_format=Forecast
    )
    assert isinstance(answer.choices[0].message.parsed, Forecast)
    assert answer.choices[0].finish_reason == "stop"


def test_reasoning_and_log_probabilities(fleet: Fleet) -> None:
    whole = _ask(fleet, "why?", reasoning_effort="low", logprobs=True, top_logprobs=2).choices[0]
    assert whole.message.reasoning_content
    assert whole.message.content
    chunks = [chunk.choices[0] for chunk in _ask(fleet, "why?", reasoning_effort="low", stream=True)]
    assert (
        "".join(getattr(c.delta, "reasoning_content", "") for c in chunks) == whole.message.reasoning_content
    )
    assert "".join(c.delta.content or "" for c in chunks) == whole.message.content
    assert len(chunks) > 10
    assert all(len(entry.top_logprobs) == 2 for entry in whole.logprobs.content)


def test_what_it_cannot_make_is_a_400(fleet: Fleet) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "a+"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match="keyword 'pattern' is not understood"):
        _ask(fleet, "x", response_format=form)


def test_a_killed_worker_changes_nothing(fleet: Fleet) -> None:
    more = {"tools": TOOLS, "reasoning_effort": "high"}
    questions = [f'{place}: weather({{"city": "{"Łódź " * 20}"}})' for place in range(8)]
    expected = [_ask(fleet, question, **more).choices[0].message for question in questions[:2]]
    begun = []

    def stream(question: str) -> tuple[str, str, str, list[str]]:
        reasoning = arguments = name = ""
        reasons = []
        for chunk in _ask(fleet, question, stream=True, **more):
            choice = chunk.choices[0]
            reasoning += getattr(choice.delta, "reasoning_content", "")
            if reasoning and question not in begun:
                begun.append(question)
                if len(begun) == len(questions):
                    fleet.workers[0].kill()
            for call in choice.delta.tool_calls or ():
                name += call.function.name or ""
                arguments += call.function.arguments or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
        return reasoning, name, arguments, reasons

    with ThreadPoolExecutor(8) as pool:
        streams = list(pool.map(stream, questions))
    for (reasoning, name, arguments, _), message in zip(streams, expected, strict=False):
        call = message.tool_calls[0].function
        assert (reasoning, name, arguments) == (message.reasoning_content, call.name, call.arguments)
    for reasoning, name, arguments, reasons in streams:
        assert (len(reasoning.split()), name, reasons) == (32, "weather", ["tool_calls"])
        assert json.loads(arguments) == {"city": "Łódź " * 20}
    assert not fleet.workers[0].alive
