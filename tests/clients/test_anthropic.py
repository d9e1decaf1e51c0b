"""Anthropic's client against ``/v1/messages``: what people have written for it goes on as it is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.support.bodies import claude_code
from tests.support.clients import RATED, Served

pytestmark = [pytest.mark.slow, pytest.mark.clients]
anthropic = pytest.importorskip("anthropic")

HI: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def client(served: Served) -> Any:
    return anthropic.Anthropic(base_url=served.url, api_key=served.key, max_retries=0)


def test_a_message(client: Any) -> None:
    message = client.messages.create(model="mocker", max_tokens=16, messages=HI)
    assert (message.type, message.role, message.model) == ("message", "assistant", "mocker")
    assert message.id == f"msg_{message._request_id.replace('-', '')}"
    (block,) = message.content
    assert block.type == "text"
    assert len(block.text) == 16
    assert (message.stop_reason, message.stop_sequence) == ("max_tokens", None)
    assert message.usage.output_tokens == 16
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens > 2


def test_models(client: Any) -> None:
    """As ``client.models`` of Anthropic's client reads them; those of OpenAI's client stay as they are."""
    listed = client.models.list(limit=1)
    assert [(one.type, one.id, one.display_name) for one in listed] == [("model", "mocker", "mocker")]
    one = client.models.retrieve("mocker")
    assert one == listed.data[0]
    assert one.created_at.tzinfo is not None
    with pytest.raises(anthropic.NotFoundError, match="nobody"):
        client.models.retrieve("nobody")


def test_a_stream_is_the_same_message(client: Any) -> None:
    asked = {"model": "mocker", "max_tokens": 40, "messages": HI, "system": "Be brief."}
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == whole.content[0].text
    assert final.stop_reason == whole.stop_reason == "max_tokens"
    total = final.usage.input_tokens + final.usage.cache_read_input_tokens
    assert total == whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    assert final.usage.output_tokens == 40


def test_the_events_of_a_stream(client: Any) -> None:
    raw = client.messages.create(model="mocker", max_tokens=8, messages=HI, stream=True)
    kinds = [event.type for event in raw]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


def test_the_stream_begins_with_the_tokens_of_the_prompt(client: Any) -> None:
    counted = client.messages.count_tokens(model="mocker", messages=HI, system="Be brief.").input_tokens
    raw = client.messages.create(model="mocker", max_tokens=4, messages=HI, system="Be brief.", stream=True)
    events = list(raw)
    assert events[0].message.usage.input_tokens == counted > 0
    last = events[-2].usage
    assert last.input_tokens + last.cache_read_input_tokens == counted


def test_a_stop_sequence_is_named(client: Any) -> None:
    text = client.messages.create(model="mocker", max_tokens=60, messages=HI).content[0].text
    words = text.split(" ")
    stops = ["nowhere", f" {words[2]}"]
    message = client.messages.create(model="mocker", max_tokens=60, messages=HI, stop_sequences=stops)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", f" {words[2]}")
    assert message.content[0].text == " ".join(words[:2])
    with client.messages.stream(model="mocker", max_tokens=60, messages=HI, stop_sequences=stops) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", f" {words[2]}")
    assert final.content[0].text == " ".join(words[:2])


def test_async(served: Served) -> None:
    async def ask() -> tuple[Any, str]:
        async with anthropic.AsyncAnthropic(base_url=served.url, api_key=served.key, max_retries=0) as client:
            asked = {"model": "mocker", "max_tokens": 12, "messages": HI}
            whole = client.messages.create(**asked)
            async with client.messages.stream(**asked) as stream:
                text = "".join([text async for text in stream.text_stream])
            return await whole, text

    whole, text = asyncio.run(ask())
    assert whole.content[0].text == text


def test_keys(served: Served) -> None:
    for given in ({"api_key": served.key}, {"auth_token": served.key, "api_key": None}):
        client = anthropic.Anthropic(base_url=served.url, max_retries=0, **given)
        assert client.messages.create(model="mocker", max_tokens=1, messages=HI).content
    wrong = anthropic.Anthropic(base_url=served.url, api_key="wrong", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError) as caught:
        wrong.messages.create(model="mocker", max_tokens=1, messages=HI)
    assert caught.value.body["error"]["type"] == "authentication_error"
    assert caught.value.request_id == caught.value.body["request_id"]


@pytest.mark.parametrize(
    ("more", "error", "kind"),
    [
        ({"model": "nobody"}, "NotFoundError", "not_found_error"),
        ({"max_tokens": 0}, "BadRequestError", "invalid_request_error"),
        ({"extra_body": {"temperature": 7}}, "BadRequestError", "invalid_request_error"),
        ({"messages": [{"role": "user", "content": "word " * 40_000}]}, "BadRequestError", "invalid_request_error"),
        ({"messages": [{"role": "user", "content": "x" * (11 << 20)}]}, "RequestTooLargeError", "request_too_large"),
    ],
)  # fmt: skip
def test_what_it_raises(client: Any, more: dict[str, Any], error: str, kind: str) -> None:
    with pytest.raises(getattr(anthropic, error)) as caught:
        client.messages.create(**{"model": "mocker", "max_tokens": 4, "messages": HI} | more)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == kind


def test_a_conversation_that_is_too_long_is_told_in_the_words_that_clients_know(client: Any) -> None:
    long = [{"role": "user", "content": "word " * 40_000}]
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        client.messages.create(model="mocker", max_tokens=4, messages=long)


def test_more_tokens_than_the_model_has_room_for(client: Any) -> None:
    said = client.messages.create(model="mocker", max_tokens=20_000, messages=HI)
    assert said.stop_reason == "model_context_window_exceeded"
    with client.messages.stream(model="mocker", max_tokens=20_000, messages=HI) as stream:
        assert stream.get_final_message().stop_reason == "model_context_window_exceeded"


def test_a_limit_of_the_key(served: Served) -> None:
    client = anthropic.Anthropic(base_url=served.url, api_key=RATED, max_retries=0)
    client.messages.create(model="mocker", max_tokens=1, messages=HI)
    with pytest.raises(anthropic.RateLimitError) as caught:
        client.messages.create(model="mocker", max_tokens=1, messages=HI)
    assert caught.value.body["error"]["type"] == "rate_limit_error"
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_an_error_in_mid_stream(client: Any) -> None:
    with (
        pytest.raises(anthropic.APIStatusError, match="past its deadline") as caught,
        client.messages.stream(
            model="mocker", max_tokens=4000, messages=HI, extra_body={"timeout": 1.0}
        ) as stream,
    ):
        list(stream)
    assert caught.value.body["error"]["type"] == "timeout_error"


def test_paths_below_have_its_shape_too(client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.batches.list()
    assert caught.value.body["error"]["type"] == "not_found_error"


WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ASKED: list[Any] = [{"role": "user", "content": 'ask weather({"city": "Oslo"}), please'}]


def test_a_loop_of_tools(client: Any) -> None:
    asked = {"model": "mocker", "max_tokens": 200, "tools": [WEATHER]}
    said = client.messages.create(messages=ASKED, **asked)
    assert said.stop_reason == "tool_use"
    use = said.content[-1]
    assert (use.type, use.name, use.input) == ("tool_use", "weather", {"city": "Oslo"})
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "18 degrees"}
    turns = [*ASKED, said.to_param(), {"role": "user", "content": [result]}]
    answer = client.messages.create(messages=turns, **asked)
    assert answer.stop_reason == "end_turn"
    assert answer.content[-1].text == "Result: 18 degrees"


def test_a_call_in_a_stream(client: Any) -> None:
    with client.messages.stream(model="mocker", max_tokens=200, messages=ASKED, tools=[WEATHER]) as stream:
        partial = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    assert len(partial) > 1
    assert json.loads("".join(partial)) == final.content[-1].input == {"city": "Oslo"}
    assert final.stop_reason == "tool_use"


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ({"type": "auto"}, []), ({"type": "none"}, []), ({"type": "any"}, ["weather"]),
        ({"type": "tool", "name": "time"}, ["time"]),
    ],
)  # fmt: skip
def test_the_choice_of_a_tool(client: Any, choice: dict[str, Any], called: list[str]) -> None:
    tools = [WEATHER, {"name": "time", "input_schema": {"type": "object"}}]
    said = client.messages.create(
        model="mocker", max_tokens=200, messages=HI, tools=tools, tool_choice=choice
    )
    assert [block.name for block in said.content if block.type == "tool_use"] == called
    assert (said.stop_reason == "tool_use") == bool(called)


def test_several_calls_or_one(client: Any) -> None:
    tools = [WEATHER, {"name": "time", "input_schema": {"type": "object"}}]
    both = [{"role": "user", "content": "weather and time, please"}]
    for single in (False, True):
        choice = {"type": "auto", "disable_parallel_tool_use": single}
        said = client.messages.create(
            model="mocker", max_tokens=300, messages=both, tools=tools, tool_choice=choice
        )
        names = [block.name for block in said.content if block.type == "tool_use"]
        assert names == (["weather"] if single else ["weather", "time"])


def test_the_tool_runner(client: Any) -> None:
    @anthropic.beta_tool
    def weather(city: str) -> str:
        """The weather of a city.

        Args:
            city: Its name.
        """
        return f"18 degrees in {city}"

    runner = client.beta.messages.tool_runner(model="mocker", max_tokens=200, messages=ASKED, tools=[weather])
    assert runner.until_done().content[-1].text == "Result: 18 degrees in Oslo"


def test_thinking(client: Any) -> None:
    asked = {"model": "mocker", "max_tokens": 2000, "messages": HI}
    said = client.messages.create(thinking={"type": "adaptive"}, **asked)
    assert [block.type for block in said.content] == ["thinking", "text"]
    assert said.content[0].thinking
    assert said.content[0].signature
    with client.messages.stream(thinking={"type": "enabled", "budget_tokens": 1024}, **asked) as stream:
        events = list(stream)
        final = stream.get_final_message()
    assert {"thinking", "signature", "text"} <= {event.type for event in events}
    assert final.content[0].thinking
    assert final.content[0].signature
    turns = [*HI, said.to_param(), *HI]
    again = client.messages.create(
        thinking={"type": "disabled"}, **{**asked, "messages": turns, "max_tokens": 5}
    )
    assert [block.type for block in again.content] == ["text"]


def test_an_answer_of_a_schema(client: Any) -> None:
    schema = {
        "type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False,
    }  # fmt: skip
    said = client.messages.create(
        model="mocker", max_tokens=200, messages=HI,
        extra_body={"output_config": {"format": {"type": "json_schema", "schema": schema}}},
    )  # fmt: skip
    assert type(json.loads(said.content[0].text)["n"]) is int


def test_what_claude_code_sends(served: Served) -> None:
    body = claude_code("mocker")
    betas = "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27"
    headers = {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": betas,
        "x-app": "cli",
        "x-api-key": served.key,
    }
    answer = httpx.post(f"{served.url}/v1/messages?beta=true", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    kinds = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-1] == "message_stop"
    counted = {name: body[name] for name in ("model", "messages", "system", "tools", "thinking")}
    url = f"{served.url}/v1/messages/count_tokens?beta=true"
    answer = httpx.post(url, json=counted, headers=headers, timeout=60)
    start = next(line for line in answer.iter_lines() if line)
    assert json.loads(start)["input_tokens"] > 100


def test_the_same_request_once(served: Served, client: Any) -> None:
    asked = {"model": "mocker", "max_tokens": 8, "messages": HI, "extra_headers": {"Idempotency-Key": "once"}}
    first, second = client.messages.create(**asked), client.messages.create(**asked)
    assert (first.id, first.content) == (second.id, second.content)
    with pytest.raises(anthropic.ConflictError):
        client.messages.create(**asked | {"max_tokens": 9})


def test_in_the_background_and_read_later(served: Served, client: Any) -> None:
    accepted = client.messages.with_raw_response.create(
        model="mocker", max_tokens=30, messages=HI, extra_body={"background": True}
    )
    assert accepted.http_response.status_code == 202
    request_id = json.loads(accepted.http_response.text)["id"]
    whole = client.messages.create(model="mocker", max_tokens=30, messages=HI)
    stream = client.get(
        f"/v1/requests/{request_id}/stream", cast_to=anthropic.types.RawMessageStreamEvent, stream=True,
        stream_cls=anthropic.Stream[anthropic.types.RawMessageStreamEvent],
        options={"headers": {"Authorization": f"Bearer {served.key}"}},
    )  # fmt: skip
    events = list(stream)
    text = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    assert text == whole.content[0].text
    assert events[-1].type == "message_stop"
