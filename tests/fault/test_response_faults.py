"""Responses while processes die: the right text, one end, the same numbers everywhere; turns are added once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest

from tests.support.faults import restart_redis
from tests.support.processes import Frontend, Worker, together, until
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow

TOKENS = 240
ENDS = ("response.completed", "response.incomplete", "response.failed", "response.cancelled", "error")


@dataclass
class Stack:
    server: RedisServer
    workers: tuple[Worker, Worker]
    one: Frontend
    two: Frontend
    clients: list[openai.OpenAI] = field(default_factory=list)

    def client(self, frontend: Frontend) -> openai.OpenAI:
        made = openai.OpenAI(base_url=f"{frontend.base_url}/v1", api_key="-", max_retries=0, timeout=120)
        self.clients.append(made)
        return made


@pytest.fixture
def stack(own_server: RedisServer) -> Iterator[Stack]:
    url = own_server.url
    settings = ("Worker.engine=mocker", "Worker.token_delay_ms=20")
    with ExitStack() as entered:
        workers = [Worker(url, settings=settings, name=name) for name in "ab"]
        first, second, one, two = entered.enter_context(together(*workers, Frontend(url), Frontend(url)))
        made = Stack(own_server, (first, second), one, two)
        yield made
        for client in made.clients:
            client.close()


def ask(client: openai.OpenAI, **more: Any) -> Any:
    body = {"model": "mocker", "input": "a story", "max_output_tokens": TOKENS, "extra_body": {"seed": 7}}
    return client.responses.create(**body | more)


class Reader(threading.Thread):
    """Reads the events of a stream."""

    def __init__(self, stream: Any):
        super().__init__(daemon=True)
        self.events: list[dict[str, Any]] = []
        self.failure: Exception | None = None
        self._stream = stream
        self.start()

    def run(self) -> None:
        try:
            for event in self._stream:
                self.events.append(event.to_dict())
        except Exception as exc:  # noqa: BLE001 - of the client's HTTP library: the connection is gone
            self.failure = exc

    def has(self, count: int) -> None:
        until(lambda: len(self.events) >= count or not self.is_alive(), 60, f"{count} events")

    def finish(self) -> list[dict[str, Any]]:
        self.join(120)
        assert not self.is_alive()
        return self.events


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def check(events: list[dict[str, Any]], text: str) -> None:
    """One end, numbers without a gap, the text, exact counts."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events if event["type"] in ENDS] == ["response.incomplete"]
    assert text_of(events) == text
    final = events[-1]["response"]
    assert final["output"][0]["content"][0]["text"] == text
    assert final["usage"]["output_tokens"] == TOKENS


def test_workers_are_killed(stack: Stack) -> None:
    one, two = stack.client(stack.one), stack.client(stack.two)
    text = ask(one).output_text
    reader = Reader(ask(one, background=True, stream=True))
    reader.has(30)
    name = reader.events[0]["response"]["id"]
    beside = Reader(two.responses.retrieve(name, stream=True))
    stack.workers[0].kill()
    with Worker(stack.server.url, settings=("Worker.engine=mocker", "Worker.token_delay_ms=20"), name="c"):
        reader.has(80)
        stack.workers[1].kill()
        whole = reader.finish()
        check(whole, text)
        assert beside.finish() == whole
        assert two.responses.retrieve(name).to_dict() == whole[-1]["response"]
        again = [event.to_dict() for event in one.responses.retrieve(name, stream=True, starting_after=40)]
        assert again == whole[41:]


def test_a_frontend_is_killed_in_the_middle_of_a_stream(stack: Stack) -> None:
    one, two = stack.client(stack.one), stack.client(stack.two)
    text = ask(two).output_text
    reader = Reader(ask(one, background=True, stream=True))
    reader.has(40)
    stack.one.kill()
    seen = reader.finish()
    assert len(seen) < TOKENS
    name, last = seen[0]["response"]["id"], seen[-1]["sequence_number"]
    assert two.responses.retrieve(name).status == "in_progress"
    rest = [event.to_dict() for event in two.responses.retrieve(name, stream=True, starting_after=last)]
    check(seen + rest, text)
    assert two.responses.retrieve(name).output_text == text


def test_a_frontend_is_killed_while_somebody_polls(stack: Stack) -> None:
    one, two = stack.client(stack.one), stack.client(stack.two)
    made = ask(one, background=True)
    until(lambda: one.responses.retrieve(made.id).status == "in_progress")
    stack.one.kill()
    done = until(lambda: _ended(two, made.id), 60)
    assert (done.status, done.usage.output_tokens) == ("incomplete", TOKENS)
    assert done.output_text == ask(two).output_text


def _ended(client: openai.OpenAI, name: str) -> Any:
    found = client.responses.retrieve(name)
    return None if found.status in ("queued", "in_progress") else found


def test_redis_restarts(stack: Stack) -> None:
    one, two = stack.client(stack.one), stack.client(stack.two)
    text = ask(one).output_text
    reader = Reader(ask(one, background=True, stream=True))
    reader.has(40)
    name = reader.events[0]["response"]["id"]
    beside = Reader(two.responses.retrieve(name, stream=True))
    restart_redis(stack.server)
    whole = reader.finish()
    check(whole, text)
    assert beside.finish() == whole
    until(lambda: _found(two, name))
    assert two.responses.retrieve(name).output_text == text
    following = ask(two, input="go on", previous_response_id=name, max_output_tokens=4)
    assert following.usage.input_tokens > len(text)  # the mocker's tokens are bytes


def _found(client: openai.OpenAI, name: str) -> bool:
    try:
        return client.responses.retrieve(name).status == "incomplete"
    except openai.APIStatusError:
        return False


def test_a_turn_is_added_once_whichever_frontend_dies(stack: Stack) -> None:
    one, two = stack.client(stack.one), stack.client(stack.two)
    talks = [one.conversations.create() for _ in range(6)]
    made = [ask(one, conversation=talk.id, background=True, max_output_tokens=20) for talk in talks]
    stack.one.kill()
    until(lambda: all(_ended(two, response.id) for response in made), 60)
    with Frontend(stack.server.url) as third:
        other = stack.client(third)
        for talk, response in zip(talks, made, strict=True):
            for client in (two, other):
                items = list(client.conversations.items.list(talk.id, order="asc"))
                assert [item.role for item in items] == ["user", "assistant"]
                assert items[1].content[0].text == client.responses.retrieve(response.id).output_text
        following = ask(other, conversation=talks[0].id, max_output_tokens=5)
        assert following.status == "incomplete"
        assert len(list(two.conversations.items.list(talks[0].id))) == 4
