"""Recorded answers from Workers through the queue and the frontend to the real ``openai`` client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest

from tests.support import reading
from tests.support.answers import TAGS, TOOLS, recordings, write_tokenizer
from tests.support.processes import Frontend, Worker, together, until
from tests.support.reading import Said
from tests.support.server import RedisServer

READ = {"plain": reading.plain, "hermes": reading.hermes, "think": reading.think}
WELL = (
    "plain/umlauts", "plain/emojis", "hermes/call", "hermes/calls", "hermes/text-calls", "hermes/nested",
    "hermes/unknown-function", "hermes/text-behind", "think/answer", "think/call", "think/no-start-tag",
)  # fmt: skip
MALFORMED = tuple(
    name for name in recordings() if name.partition("/")[0] in ("hermes", "think") and name not in WELL
)


def model_of(name: str) -> str:
    """Answers that begin with reasoning are those of a model with a reasoning parser."""
    return "thinker" if name.startswith("think/") else "caller"


def _worker(url: str, folder: Path, model: str, **settings: str) -> Worker:
    given = {
        "Worker.engine": "tests.support.recorded:RecordedEngine", "Worker.model": str(folder),
        "Worker.served_model_name": model, "Worker.dynamo.name": model, "Worker.tool_call_parser": "hermes", **settings,
    }  # fmt: skip
    return Worker(
        url, settings=tuple(f"{key}={value}" for key, value in given.items()), name=model, wait=False
    )


@pytest.fixture(scope="module")
def frontend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frontend]:
    folder = write_tokenizer(tmp_path_factory.mktemp("recorded"))
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    caller = _worker(server.url, folder, "caller")
    thinker = _worker(server.url, folder, "thinker", **{"Worker.reasoning_parser": "olmo3"})
    try:
        with together(Frontend(server.url, ready=""), caller, thinker) as (made, *workers):
            for worker in workers:
                worker.wait_ready(120)
            until(lambda: _models(made) == {"caller", "thinker"}, 30, "both models")
            yield made
    finally:
        server.stop()


def _models(frontend: Frontend) -> set[str]:
    status, listed = frontend.get("/v1/models")
    return {row["id"] for row in listed["data"]} if status == 200 else set()


@pytest.fixture
def client(frontend: Frontend) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{frontend.base_url}/v1", api_key="none", max_retries=0) as made:
        yield made


class Got(NamedTuple):
    """What a client puts together."""

    content: str
    reasoning: str
    calls: list[tuple[str, str]]
    reason: str | None


def _ask(client: openai.OpenAI, name: str, **more: Any) -> Any:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": f"[{name}]"}], "tools": TOOLS}
    return client.chat.completions.create(model=model_of(name), **asked | more)


def whole(client: openai.OpenAI, name: str) -> Got:
    (choice,) = _ask(client, name).choices
    message = choice.message
    calls = message.tool_calls or []
    assert len({call.id for call in calls} - {None, ""}) == len(calls)
    found = [(call.function.name, call.function.arguments) for call in calls]
    return Got(message.content or "", getattr(message, "reasoning_content", ""), found, choice.finish_reason)


def streamed(client: openai.OpenAI, name: str) -> Got:
    content, reasoning, reasons = "", "", []
    calls: list[list[str]] = []
    for chunk in _ask(client, name, stream=True):
        (choice,) = chunk.choices
        assert not reasons, "nothing follows the end"
        content += choice.delta.content or ""
        reasoning += getattr(choice.delta, "reasoning_content", None) or ""
        for piece in choice.delta.tool_calls or ():
            if piece.id:  # the first piece of a call; calls come in order
                assert piece.index == len(calls)
                calls.append([piece.function.name, ""])
            assert piece.index == len(calls) - 1
            calls[-1][1] += piece.function.arguments or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
    (reason,) = reasons
    return Got(content, reasoning, [(called, arguments) for called, arguments in calls], reason)


def _read(name: str) -> Said:
    return READ[name.partition("/")[0]](recordings()[name].text)


@pytest.mark.parametrize("name", WELL)
@pytest.mark.parametrize("ask", [whole, streamed])
def test_a_client_gets_what_the_model_wrote(client: openai.OpenAI, name: str, ask: Any) -> None:
    expected, got = _read(name), ask(client, name)
    assert got.content.strip() == expected.content.strip()
    assert got.reasoning.strip() == expected.reasoning.strip()
    assert [(called, json.loads(arguments)) for called, arguments in got.calls] == expected.calls
    assert got.reason == ("tool_calls" if expected.calls else recordings()[name].finish_reason)


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_ends_in_order_and_is_the_same_streamed_or_not(
    client: openai.OpenAI, name: str
) -> None:
    got, text = whole(client, name), recordings()[name].text
    again = streamed(client, name)
    assert (again.content.strip(), *again[1:]) == (got.content.strip(), *got[1:])
    assert (
        got.reason == ("tool_calls" if got.calls else recordings()[name].finish_reason)
        or got.reason == "length"
    )
    for said in (got.content, got.reasoning, *(part for call in got.calls for part in call)):
        assert said in text
    if not got.calls:
        said = got.reasoning + got.content
        assert all(line in said or line in TAGS for line in text.splitlines())


def test_the_rest_of_a_stream_goes_on_within_a_call(frontend: Frontend) -> None:
    body = {"model": "caller", "messages": [{"role": "user", "content": "[hermes/calls]"}], "tools": TOOLS}
    chunks = [
        (event_id, json.loads(data))
        for event_id, data in frontend.events("POST", "/v1/chat/completions", {**body, "stream": True})
        if data != "[DONE]"
    ]
    request_id = chunks[0][1]["id"].removeprefix("chatcmpl-")
    for start in range(0, len(chunks) - 1, 5):
        headers = {"last-event-id": chunks[start][0]}
        rest = frontend.events("GET", f"/v1/requests/{request_id}/stream", headers=headers)
        assert [(event_id, json.loads(data)) for event_id, data in rest if data != "[DONE]"] == chunks[
            start + 1 :
        ]
