"""The Responses API over HTTP, with the real ``openai`` client, from two frontends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.e2e.conftest import Stack
from tests.support.processes import until

ASK = "tell me a story"


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with _client(stack.one.base_url) as made:
        yield made


@pytest.fixture
def other(stack: Stack) -> Iterator[openai.OpenAI]:
    """A client of the other frontend."""
    with _client(stack.two.base_url) as made:
        yield made


def _client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def _ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.responses.create(**{"model": "mocker", "input": ASK, "max_output_tokens": 12} | more)


def test_a_response_is_kept_and_any_frontend_has_it(client: openai.OpenAI, other: openai.OpenAI) -> None:
    made = _ask(client, instructions="be brief", metadata={"a": "b"})
    assert (made.status, made.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert made.output_text
    assert made.usage.output_tokens == 12
    assert made.usage.total_tokens == made.usage.input_tokens + 12
    assert (made.instructions, made.metadata) == ("be brief", {"a": "b"})
    found = other.responses.retrieve(made.id)
    assert found.to_dict() == made.to_dict()
    items = list(other.responses.input_items.list(made.id))
    assert [item.content[0].text for item in items] == [ASK]
    other.responses.delete(made.id)
    for one in (client, other):
        with pytest.raises(openai.NotFoundError):
            one.responses.retrieve(made.id)


def test_streamed_is_the_same(client: openai.OpenAI) -> None:
    events = list(_ask(client, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete",
    ]  # fmt: skip
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    text = "".join(event.delta for event in events[4:-4])
    final = events[-1].response
    assert final.output_text == text == _ask(client).output_text
    assert client.responses.retrieve(final.id).to_dict() == final.to_dict()


def test_in_the_background(client: openai.OpenAI, other: openai.OpenAI) -> None:
    made = _ask(client, background=True)
    assert (made.status, made.output) == ("queued", [])
    done = until(lambda: _ended(other, made.id))
    assert done.status == "incomplete"
    first = list(client.responses.retrieve(made.id, stream=True))
    assert [event.type for event in first[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    rest = list(other.responses.retrieve(made.id, stream=True, starting_after=first[5].sequence_number))
    assert [event.to_dict() for event in rest] == [event.to_dict() for event in first[6:]]


def _ended(client: openai.OpenAI, name: str) -> Any:
    found = client.responses.retrieve(name)
    return None if found.status in ("queued", "in_progress") else found


def test_one_in_the_background_is_cancelled_and_another_one_is_not(
    client: openai.OpenAI, other: openai.OpenAI
) -> None:
    made = _ask(client, background=True, max_output_tokens=2000)
    assert other.responses.cancel(made.id).status == "cancelled"
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"
    plain = _ask(client)
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(plain.id)
    with pytest.raises(openai.BadRequestError, match="background"):
        list(client.responses.retrieve(plain.id, stream=True))


def test_one_that_follows_another_knows_it_also_when_that_is_gone(
    client: openai.OpenAI, other: openai.OpenAI
) -> None:
    first = _ask(client)
    second = _ask(other, input="go on", previous_response_id=first.id)
    client.responses.delete(first.id)
    third = _ask(client, input="and then", previous_response_id=second.id)
    items = list(client.responses.input_items.list(third.id, order="asc", limit=2))
    texts = [item.content[0].text for item in items]
    assert texts == [ASK, first.output_text, "go on", second.output_text, "and then"]
    assert third.usage.input_tokens > second.usage.input_tokens > first.usage.input_tokens
    with pytest.raises(openai.BadRequestError) as caught:
        _ask(client, previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"


def test_what_is_not_stored_is_not_found(client: openai.OpenAI) -> None:
    made = _ask(client, store=False)
    assert made.output_text
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
