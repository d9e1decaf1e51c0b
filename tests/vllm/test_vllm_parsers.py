"""Tool calls and reasoning: requests, required calls, and answers written by hand over the real HTTP path.

What a real model wrote is read in ``test_vllm_recorded.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.tiny_model import make_tiny_model
from dynamo_tasks.engines.parsers.tool_parsers import Parsers, check_parsers
from dynamo_tasks.engines.text.tokenizer import load_tokenizer
from dynamo_tasks.errors import ConfigError, InvalidRequestError
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.protocol.messages import MessageDelta, merge_messages
from dynamo_tasks.protocol.tokens import TokenDelta, decode_deltas, encode_deltas, merge_delta
from tests.support.processes import Frontend, Worker, until
from tests.support.recorded import ANSWERS
from tests.support.server import RedisServer
from tests.vllm.conftest import Bench

CHAT = "/v1/chat/completions"
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")


def _tool(name: str, *properties: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {one: {"type": "string"} for one in properties}}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [_tool("get_weather", "city", "unit"), _tool("get_time", "zone")]
WEATHER = {"city": "Köln", "unit": "celsius"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, some of whose tokens are the tags that parsers look for."""
    folder = make_tiny_model(tmp_path_factory.mktemp("parsers") / "tiny")
    file = folder / "tokenizer.json"
    text = file.read_text()
    for number, tag in enumerate(TAGS):
        assert f'"w{number}"' in text
        text = text.replace(f'"w{number}"', json.dumps(tag))
    file.write_text(text)
    return folder


@pytest.fixture(scope="module")
def parsers(model: Path) -> Parsers:
    return Parsers.load(_card(model, "hermes", "qwen3"))


def _card(model: Path, tool_call: str | None, reasoning: str | None) -> ModelCard:
    card = ModelCard(name="tiny", tokenizer=str(model))
    return ModelCard(
        name=card.name, tokenizer=card.tokenizer, tool_call_parser=tool_call, reasoning_parser=reasoning
    )


def _deltas(model: Path, text: str) -> list[TokenDelta]:
    """The text as an engine gives it: token by token, then the end."""
    tokenizer = load_tokenizer(str(model))
    stream = tokenizer.stream(skip_special_tokens=False)
    ids = tokenizer.encode(text, add_special_tokens=False)
    return [
        *(TokenDelta(stream.push([token]), [token]) for token in ids),
        TokenDelta(stream.flush(), [], 0, "stop"),
    ]


def _read(reader: Any, deltas: list[TokenDelta]) -> tuple[MessageDelta | None, str | None]:
    message: MessageDelta | None = None
    for delta in deltas:
        message = merge_messages(message, reader.read(delta).message)
    return message, deltas[-1].finish_reason


def _payload(**chat: Any) -> dict[str, Any]:
    return {"prompt_token_ids": [5, 6, 7], "chat": {"tools": TOOLS, **chat}}


def test_what_was_said_is_read_token_by_token(parsers: Parsers, model: Path) -> None:
    payload, reader = parsers.open(_payload())
    assert payload["skip_special_tokens"] is False
    assert "chat" not in payload
    message, reason = _read(reader, _deltas(model, ANSWERS["[calls]"]))
    assert message is not None
    assert (message.reasoning.strip(), message.content.strip()) == ("Two cities, two calls.", "I look it up.")
    assert [(call.index, call.name, json.loads(call.arguments)) for call in message.tool_calls] == [
        (0, "get_weather", {"city": "Köln"}),
        (1, "get_time", {"zone": "Europe/Berlin", "short": True}),
    ]
    assert len({call.id for call in message.tool_calls}) == 2
    assert reason == "tool_calls"


@pytest.mark.parametrize(
    ("told", "wanted"), [(True, {}), (None, {}), (False, {"skip_special_tokens": False})]
)
def test_special_tokens_are_kept_where_a_parser_wants_them(told: bool | None, wanted: dict[str, Any]) -> None:
    from dynamo_tasks.engines.parsers.api import adjusted

    changed = SimpleNamespace(skip_special_tokens=told, structured_outputs=None)
    parser = SimpleNamespace(adjust_request=lambda request: changed)
    request: Any = None
    assert adjusted(parser, request) == wanted


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("key", ANSWERS)
def test_an_interrupted_answer_is_read_on_from_any_token(
    parsers: Parsers, model: Path, key: str, batch: int
) -> None:
    def without_ids(message: MessageDelta | None) -> Any:
        assert message is not None
        return (
            message.content,
            message.reasoning,
            [(c.index, c.name, c.arguments) for c in message.tool_calls],
        )

    whole, reason = _read(parsers.open(_payload())[1], _deltas(model, ANSWERS[key]))
    size = len(_deltas(model, ANSWERS[key]))
    for cut in range(1, size - 1, 2):
        deltas = _deltas(model, ANSWERS[key])
        _, first = parsers.open(_payload())
        logged: list[TokenDelta] = []
        for start in range(0, cut, batch):
            pending: list[TokenDelta] = []
            for delta in deltas[start : min(start + batch, cut)]:
                merge_delta(pending, first.read(delta))
            logged += decode_deltas(encode_deltas(pending))
        before: MessageDelta | None = None
        for delta in logged:
            before = merge_messages(before, delta.message)
        rest, end = _read(parsers.open(_payload(), logged)[1], deltas[cut:])
        assert without_ids(merge_messages(before, rest)) == without_ids(whole), cut
        assert end == reason


def test_a_required_call_is_structured_output(parsers: Parsers) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "get_time"}}):
        payload, _ = parsers.open(_payload(tool_choice=choice))
        (constraint,) = payload["structured_outputs"].values()
        assert "get_time" in str(constraint)
    with pytest.raises(InvalidRequestError, match="response_format is not allowed together"):
        parsers.open(_payload(tool_choice="required") | {"response_format": {"type": "json_object"}})


def test_the_real_engine_calls_what_it_must(bench: Bench, model: Path) -> None:
    tools = [_tool("get_weather")]
    tools[0]["function"]["strict"] = True  # else any JSON will do
    tools[0]["function"]["parameters"] = {
        "type": "object", "properties": {"city": {"enum": ["Köln", "Paris"]}}, "required": ["city"],
        "additionalProperties": False,
    }  # fmt: skip
    parsers = Parsers.load(_card(Path(bench.engine.card.tokenizer), "hermes", None))
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        chat = {"tools": tools, "tool_choice": choice, "parallel_tool_calls": False}
        asked = {"prompt_token_ids": [5, 6, 7], "chat": chat, "max_tokens": 200, "temperature": 0}
        payload, reader = parsers.open(asked)
        message, reason = _read(reader, bench.deltas(payload))
        assert message is not None
        (call,) = message.tool_calls
        assert call.name == "get_weather"
        assert json.loads(call.arguments)["city"] in ("Köln", "Paris")
        assert reason == ("tool_calls" if choice == "required" else "stop")


def test_a_tokenizer_without_the_tags_is_one_clear_line(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"vLLM refuses its parsers: .*deepseek_r1"):
        Parsers.load(_card(tiny_model, None, "deepseek_r1"))
    with pytest.raises(ConfigError, match="need a model with a tokenizer"):
        Parsers.load(ModelCard(name="echo", tool_call_parser="hermes"))


@pytest.fixture(scope="module")
def frontend(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Frontend]:
    settings = (
        "Worker.engine=tests.support.recorded:RecordedEngine", f"Worker.model={model}",
        "Worker.served_model_name=tiny", "Worker.tool_call_parser=hermes", "Worker.reasoning_parser=qwen3",
    )  # fmt: skip
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    try:
        with Worker(server.url, settings=settings, wait=False) as worker:
            worker.wait_ready(120)
            with Frontend(server.url, ready="") as made:
                until(lambda: made.get("/ready")[0] == 200, 30, "the frontend")
                yield made
    finally:
        server.stop()


def _body(key: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": key}], "tools": TOOLS, **more}


def _streamed(frontend: Frontend, body: dict[str, Any]) -> tuple[dict[str, Any], str | None, list[Any]]:
    """What a client puts together from the chunks of a stream; its end; the chunks."""
    message: dict[str, Any] = {}
    reason, chunks = None, []
    for event_id, data in frontend.events("POST", CHAT, {**body, "stream": True}):
        if data == "[DONE]":
            break
        chunks.append((event_id, json.loads(data)))
        (choice,) = chunks[-1][1]["choices"]
        reason = choice["finish_reason"] or reason
        for name in ("role", "content", "reasoning_content"):
            message[name] = message.get(name, "") + (choice["delta"].get(name) or "")
        for piece in choice["delta"].get("tool_calls", ()):
            calls = message.setdefault("tool_calls", [])
            if piece["index"] == len(calls):
                calls.append({"id": piece["id"], "type": piece["type"], "function": {**piece["function"]}})
            else:
                calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    return message, reason, chunks


def _whole(frontend: Frontend, body: dict[str, Any]) -> dict[str, Any]:
    status, _, answer = frontend.request("POST", CHAT, body)
    assert status == 200, answer
    (choice,) = answer["choices"]
    return dict(choice)


def test_a_call_over_http(frontend: Frontend) -> None:
    choice = _whole(frontend, _body("[call]"))
    message = choice["message"]
    assert (message["role"], message["content"], choice["finish_reason"]) == ("assistant", None, "tool_calls")
    assert message["reasoning_content"] == message["reasoning"]
    assert message["reasoning"].strip() == "I need the weather in Köln."
    (call,) = message["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert json.loads(call["function"]["arguments"]) == WEATHER
    assert call["id"]


def test_streamed_calls_over_http(frontend: Frontend) -> None:
    message, reason, chunks = _streamed(frontend, _body("[calls]"))
    whole = _whole(frontend, _body("[calls]"))["message"]
    assert reason == "tool_calls"
    assert message["content"] == whole["content"]
    assert message["reasoning_content"] == whole["reasoning_content"]
    assert [c["function"] for c in message["tool_calls"]] == [c["function"] for c in whole["tool_calls"]]
    assert all(event_id for event_id, _ in chunks)


def test_the_rest_of_a_stream_goes_on_within_a_call(frontend: Frontend) -> None:
    _, _, chunks = _streamed(frontend, _body("[calls]"))
    request_id = chunks[0][1]["id"].removeprefix("chatcmpl-")
    middle = len(chunks) // 2
    path = f"/v1/requests/{request_id}/stream"
    rest = [
        (event_id, json.loads(data))
        for event_id, data in frontend.events("GET", path, headers={"last-event-id": chunks[middle][0]})
        if data != "[DONE]"
    ]
    assert rest == chunks[middle + 1 :]


def test_one_call_where_several_are_not_wanted(frontend: Frontend) -> None:
    choice = _whole(frontend, _body("[calls]", parallel_tool_calls=False))
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["get_weather"]


def test_answers_without_calls(frontend: Frontend) -> None:
    plain = _whole(frontend, _body("[plain]", chat_template_kwargs={"enable_thinking": False}))
    assert plain["message"] == {"role": "assistant", "content": ANSWERS["[plain]"], "refusal": None}
    assert plain["finish_reason"] == "stop"
    thought = {name: value for name, value in _body("[thought]").items() if name != "tools"}
    message, reason, _ = _streamed(frontend, thought)
    assert (message["content"].strip(), reason) == ("Hello! 🙂", "stop")
    assert "A short answer" in message["reasoning_content"]
    none = _whole(frontend, _body("[call]", tool_choice="none"))
    assert "tool_calls" not in none["message"]
    assert none["finish_reason"] == "stop"
    cut = _whole(frontend, _body("[call]", max_tokens=5))
    assert cut["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "search"}]}, "tools[0].type"),
    ],
)
def test_bad_tools_are_refused(frontend: Frontend, more: dict[str, Any], param: str) -> None:
    status, _, answer = frontend.request("POST", CHAT, _body("[plain]", **more))
    assert (status, answer["error"]["param"]) == (400, param), answer


def test_an_unknown_parser_is_refused_before_anything_starts() -> None:
    check_parsers(tool_call_parser="hermes", reasoning_parser="deepseek_r1")
    for setting, name in (("tool_call_parser", "hermess"), ("reasoning_parser", "qwen33")):
        with pytest.raises(ConfigError, match=f"nearest: '{name[:-1]}'") as caught:
            check_parsers(**{setting: name})
        assert caught.value.param == setting
