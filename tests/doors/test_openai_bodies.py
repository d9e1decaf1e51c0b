"""Bodies as OpenAI's clients, and those of other servers, really send them: taken, or refused for a reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from dynamo_tasks.protocol.http.bodies import ALIASES, IGNORED
from dynamo_tasks.protocol.http.openai import ChatRequest, CompletionRequest, EmbeddingRequest, known_fields
from tests.support.processes import ROOT, Frontend, Worker, together
from tests.support.server import RedisServer

CHAT, TEXT, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "then"}}


@dataclass
class Door:
    frontend: Frontend
    asked: Path

    def post(self, path: str, **fields: Any) -> tuple[int, Any]:
        needed: dict[str, Any] = {CHAT: {"messages": HI}, TEXT: {"prompt": "hi"}, EMBED: {"input": "hi"}}[
            path
        ]
        limit = {} if path == EMBED else {"max_tokens": 2}
        status, _, body = self.frontend.request("POST", path, {"model": "own", **needed, **limit, **fields})
        return status, body

    def engine_got(self) -> dict[str, Any]:
        """What the engine was asked last."""
        found: dict[str, Any] = json.loads(self.asked.read_text().splitlines()[-1])
        return found


@pytest.fixture(scope="module")
def door(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    asked = tmp_path_factory.mktemp("own") / "asked.jsonl"
    env = {"DYNAMO_NAMESPACE": "openai-bodies"}
    settings = ("Worker.engine=tests.support.own_engine:OwnEngine", "Worker.served_model_name=own")
    with together(
        Worker(redis_server.url, settings=settings, env={**env, "OWN_ENGINE_LOG": str(asked)}),
        Frontend(redis_server.url, env=env),
    ) as (worker, frontend):
        yield Door(frontend, asked)
        assert worker.alive
        assert "Traceback" not in frontend.output


@pytest.fixture
def client(door: Door) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{door.frontend.base_url}/v1", api_key="any", max_retries=0) as made:
        yield made


def _called(arguments: str) -> list[dict[str, Any]]:
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": arguments}}
    return [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}]


def _said(role: str, **message: Any) -> list[dict[str, Any]]:
    return [{"role": role, **message}, *HI]


MARKS = {
    kind: {"__type__": kind, "__value__": value}
    for kind, value in {
        "datetime": "x",
        "date": "2026-01-02",
        "uuid": "no",
        "nope": 1,
        "base64": 5,
        "bytes": None,
    }.items()
}
"""Objects that look like what kombu makes of dates and bytes."""

TAKEN: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"max_tokens": 3.0, "n": 1.0, "seed": 7.0, "top_k": 5.0}),
    (CHAT, {"top_p": 0}),
    (CHAT, {"top_p": 0.0, "temperature": 0, "presence_penalty": 1.5, "frequency_penalty": -1, "logit_bias": {"1": 5}}),
    (TEXT, {"repetition_penalty": 1.1, "bad_words": ["x"], "stop_token_ids": [1.0]}),
    (TEXT, {"prompt": [104.0, 105.0]}),
    (CHAT, {"messages": _said("assistant", content=None)}),
    (CHAT, {"messages": _said("assistant", content="")}),
    (CHAT, {"messages": _said("assistant", content=[])}),
    (CHAT, {"messages": _said("assistant")}),
    (CHAT, {"messages": _said("assistant", content=None, refusal="No.", audio=None, annotations=[])}),
    (CHAT, {"messages": _said("assistant", content=[{"type": "refusal", "refusal": "No."}])}),
    (CHAT, {"messages": [*_called('{"a": 1}'), {"role": "tool", "tool_call_id": "c1", "content": "12:00"}]}),
    (CHAT, {"messages": [*_called(""), {"role": "tool", "tool_call_id": "c1", "content": [
        {"type": "text", "text": "12:00"}]}]}),
    (CHAT, {"messages": _said("function", name="now", content=None)}),
    (CHAT, {"messages": _said("developer", content="Be brief.")}),
    (CHAT, {"messages": _said("system", content=[{"type": "text", "text": "Be brief."}])}),
    (CHAT, {"messages": _said("developer", content=[{"type": "text", "text": "Be brief."}])}),
    (CHAT, {"tools": [TOOL, OTHER], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
        "mode": "auto", "tools": [{"type": "function", "function": {"name": "now"}}]}}}),
    (CHAT, {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False}),
    (CHAT, {"store": True, "metadata": {"a": "b"}, "service_tier": "auto", "safety_identifier": "u", "verbosity": "low",
            "prompt_cache_key": "k", "reasoning_effort": "low", "modalities": ["text"], "user": "u"}),
    (CHAT, {"models": ["a", "b"], "provider": {"order": ["x"]}, "transforms": [], "route": "fallback"}),
    (CHAT, {"repeat_penalty": 1.2, "top_a": 0.1, "typical_p": 0.9, "mirostat": 1, "num_ctx": 4096, "min_p": 0.1}),
    (CHAT, {"max_tokens": None, "max_new_tokens": 3}),
    (TEXT, {"max_tokens": None, "n_predict": 3, "ignore_eos": True, "skip_special_tokens": False}),
    (TEXT, {"max_tokens": 0}),
    (EMBED, {"input": [[1, 2], [3]], "user": "u", "encoding_format": "float", "dimensions": 8.0}),
]  # fmt: skip


def test_every_parameter_stands_in_the_documents() -> None:
    text = (ROOT / "docs" / "http-api.md").read_text()
    known = known_fields(ChatRequest) | known_fields(CompletionRequest) | known_fields(EmbeddingRequest)
    missing = [name for name in known | IGNORED | ALIASES.keys() if f"`{name}`" not in text]
    assert not missing


@pytest.mark.parametrize(("path", "fields"), TAKEN, ids=[json.dumps(fields)[:60] for _, fields in TAKEN])
def test_taken(door: Door, path: str, fields: dict[str, Any]) -> None:
    status, body = door.post(path, **fields)
    assert status == 200, body


ONLY_THEN = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [OTHER]}}
CUSTOM = {"type": "custom", "custom": {"name": "x"}}
REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    (CHAT, {"max_token": 5}, "max_token", "did you mean 'max_tokens'"),
    (CHAT, {"temprature": 5}, "temprature", "did you mean 'temperature'"),
    (TEXT, {"stream_option": {}}, "stream_option", "did you mean 'stream_options'"),
    (CHAT, {"max_tokens": 3.5}, "max_tokens", "int"),
    (CHAT, {"tools": [CUSTOM]}, "tools[0].type", "supported values are: 'function'"),
    (CHAT, {"tools": [TOOL], "tool_choice": CUSTOM}, "tool_choice.type", "supported values are: 'function'"),
    (CHAT, {"messages": _said("assistant", tool_calls=[CUSTOM])}, "messages[0].tool_calls[0].type", "'function'"),
    (CHAT, {"messages": _said("tool", tool_call_id="c1", content=None)}, "messages[0].content", "required"),
    (CHAT, {"tools": [TOOL], "tool_choice": ONLY_THEN}, "tool_choice.allowed_tools.tools",
     "'then' is not among the tools"),
    (CHAT, {"functions": [{"name": "x"}]}, "functions", "tools"),
    (CHAT, {"chat_template": "{{ 1 }}"}, "chat_template", "not run"),
    (CHAT, {"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages", "variable"),
    (CHAT, {"chat_template_kwargs": {"template": ""}}, "chat_template_kwargs.template", "variable"),
    (CHAT, {"messages": _called("[" * 100_000)}, "messages[1].tool_calls[0].function.arguments", "levels deep"),
    (CHAT, {"messages": _called("{")}, "messages[1].tool_calls[0].function.arguments", "valid JSON"),
    (CHAT, {"messages": _said("user", content=[])}, "messages[0].content", "required"),
    (CHAT, {"messages": _said("user", content=[{"type": "image_url", "image_url": {"url": "x"}}])},
     "messages[0].content[0].type", "text"),
    (EMBED, {"cache_salt": "x"}, "cache_salt", "embeddings"),
    (EMBED, {"input": ["x"] * 2048, "dimensions": 8192}, "input", "numbers"),
    (CHAT, {"cache_salt": ""}, "cache_salt", "length"),
    (TEXT, {"prompt": ["a", "b", ""]}, "prompt[2]", "empty"),
    (TEXT, {"prompt": ["a"] * 600, "n": 2}, "prompt", "at most 1024"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "fields", "param", "says"), REFUSED, ids=[json.dumps(fields)[:60] for _, fields, _, _ in REFUSED]
)
def test_refused(door: Door, path: str, fields: dict[str, Any], param: str, says: str) -> None:
    status, body = door.post(path, **fields)
    assert (status, body["error"]["param"]) == (400, param), body
    assert says in body["error"]["message"]


def test_each_prompt_has_its_choices(client: openai.OpenAI) -> None:
    prompts = ["one", "two", "three"]
    alone = [
        client.completions.create(model="own", prompt=prompt, n=2, max_tokens=5, seed=3) for prompt in prompts
    ]
    expected = [choice.text for answer in alone for choice in answer.choices]
    whole = client.completions.create(model="own", prompt=prompts, n=2, max_tokens=5, seed=3)
    assert [choice.index for choice in whole.choices] == list(range(6))
    assert [choice.text for choice in whole.choices] == expected
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == len("".join(prompts))
    assert whole.usage.completion_tokens == 30
    as_ids = [list(prompt.encode()) for prompt in prompts]
    assert [c.text for c in client.completions.create(model="own", prompt=as_ids, max_tokens=5, seed=3).choices] == [
        expected[0], expected[2], expected[4],
    ]  # fmt: skip


def test_several_prompts_are_streamed_and_resumed(door: Door) -> None:
    body = {"model": "own", "prompt": ["one", "two"], "n": 2, "max_tokens": 6, "seed": 3, "stream": True,
            "stream_options": {"include_usage": True}}  # fmt: skip
    request = door.frontend.events("POST", TEXT, body)
    events = list(request)
    chunks = [json.loads(data) for _, data in events if data != "[DONE]"]
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    _, whole = door.post(TEXT, **{**body, "stream": False, "stream_options": None})
    assert texts == {choice["index"]: choice["text"] for choice in whole["choices"]}
    assert chunks[-1]["usage"]["completion_tokens"] == 24
    name = chunks[0]["id"].removeprefix("cmpl-")
    rest = door.frontend.events("GET", f"/v1/requests/{name}/stream", headers={"Last-Event-ID": events[1][0]})
    assert list(rest) == events[2:]


def test_the_prompt_alone(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="own", prompt=["one", "two"], max_tokens=0, echo=True)
    assert [choice.text for choice in answer.choices] == ["one", "two"]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 0)
    echoed = client.completions.create(model="own", prompt="one", max_tokens=4, echo=True).choices[0].text
    assert echoed.startswith("one")
    assert len(echoed) == 7


def test_salt_and_priority_reach_the_engine(door: Door) -> None:
    assert door.post(CHAT, cache_salt="mine", priority=3)[0] == 200
    asked = door.engine_got()
    assert (asked["salt"], asked["priority"]) == ("mine", 3)


def test_the_prefix_cache_is_not_shared_across_salts(door: Door) -> None:
    prompt = "all of it is the same for each of them, and long enough for some blocks " * 4

    def cached(**fields: Any) -> int:
        _, body = door.post(TEXT, prompt=prompt, **fields)
        found: int = body["usage"]["prompt_tokens_details"]["cached_tokens"]
        return found

    assert cached(cache_salt="a") == 0
    assert cached(cache_salt="a") > 0
    assert cached(cache_salt="b") == 0
    assert cached() == 0
    assert cached() > 0


def test_objects_that_look_like_marks_of_kombu_arrive_as_they_are(door: Door) -> None:
    tool = {"type": "function", "function": {"name": "x", "parameters": MARKS}}
    status, body = door.post(CHAT, tools=[tool])
    assert status == 200, body
    assert door.engine_got()["tools"] == [tool]


def test_an_engine_of_ones_own_gets_the_tools(door: Door) -> None:
    assert door.post(CHAT, tools=[TOOL, OTHER], tool_choice="auto")[0] == 200
    assert (door.engine_got()["tools"], door.engine_got().get("tool_choice", "auto")) == (
        [TOOL, OTHER],
        "auto",
    )
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "now"}}]}
    assert (
        door.post(CHAT, tools=[TOOL, OTHER], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})[
            0
        ]
        == 200
    )
    assert door.engine_got()["tools"] == [TOOL]
    named = {"type": "function", "function": {"name": "then"}}
    for choice in ("required", named):
        assert door.post(CHAT, tools=[TOOL, OTHER], tool_choice=choice)[0] == 200
        assert door.engine_got()["tool_choice"] == choice
