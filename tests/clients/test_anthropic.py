"""Anthropic's client against ``/v1/messages``: what people have written for it goes on as it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

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
