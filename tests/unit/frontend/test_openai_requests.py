"""Bodies of the OpenAI API: what is refused, how, and what an engine gets."""

from __future__ import annotations

import time

import pytest

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.frontend.openai.apis import engine_body
from dynamo_tasks.protocol.http.bodies import decode_object
from dynamo_tasks.protocol.http.openai import (
    MAX_STOPS,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    parse_request,
)
from tests.support.promises import in_time

MESSAGES = [{"role": "user", "content": "hi"}]

BAD_CHAT = [
    ({"model": None}, "model"),
    ({"model": 3}, "model"),
    ({"model": ""}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": 1, "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [*MESSAGES, {"role": "user"}]}, "messages[1].content"),
    ({"messages": [{"role": "tool", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    (
        {"messages": [{"role": "assistant", "content": [{"type": "refusal"}]}]},
        "messages[0].content[0].refusal",
    ),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_completion_tokens": -5}, "max_completion_tokens"),
    ({"max_tokens": 4, "min_tokens": 5}, "min_tokens"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"n": 0}, "n"),
    ({"service_tier": "fast"}, "service_tier"),
    ({"service_tier": 1}, "service_tier"),
    ({"n": 129}, "n"),
    ({"n": 1.5}, "n"),
    ({"seed": "a"}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop"),
    ({"stop": ["x"] * (MAX_STOPS + 1)}, "stop"),
    ({"stop": [1]}, "stop[0]"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
    ({"logprobs": 1}, "logprobs"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"tools": "hammer"}, "tools"),
    ({"timeout": 0}, "timeout"),
    ({"retention": -1}, "retention"),
    ({"abandon_after": "soon"}, "abandon_after"),
    ({"background": 1}, "background"),
    ({"priority": 10}, "priority"),
    ({"max_token": 5}, "max_token"),
    ({"temprature": 0.5}, "temprature"),
    ({"Stream": True}, "Stream"),
]


@pytest.mark.parametrize(("change", "param"), BAD_CHAT, ids=[str(change)[:60] for change, _ in BAD_CHAT])
def test_a_bad_chat_body_names_its_field(change: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(ChatRequest, {"model": "tiny", "messages": MESSAGES, **change})
    assert caught.value.param == param
    assert param.split("[")[0].split(".")[0] in caught.value.message


BAD_PROMPTS = [
    ("prompt", ""),
    ("prompt", []),
    ("prompt", [""]),
    ("prompt", [[]]),
    ("prompt", 5),
    ("prompt", {"a": 1}),
    ("prompt", ["a"] * 1025),
    ("prompt", ["a", ""]),
    ("prompt", ["a", 1]),
    ("prompt", [-1]),
    ("prompt", [[1, -2]]),
    ("prompt", [1.5]),
    ("prompt", [True]),
]


@pytest.mark.parametrize(("field", "value"), BAD_PROMPTS, ids=str)
def test_a_bad_prompt_names_its_field(field: str, value: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(CompletionRequest, {"model": "tiny", field: value})
    assert caught.value.param is not None
    assert caught.value.param.startswith(field)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": [[1], "a"]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({}, "input"),
    ],
)
def test_a_bad_embeddings_body_names_its_field(change: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(EmbeddingRequest, {"model": "vectors", **change})
    assert caught.value.param == param


def test_a_misspelt_field_names_the_nearest() -> None:
    with pytest.raises(InvalidRequestError, match="did you mean 'max_tokens'"):
        parse_request(ChatRequest, {"model": "tiny", "messages": MESSAGES, "max_tokns": 3})


def test_a_missing_field_that_is_misspelt_is_explained_by_the_spelling() -> None:
    with pytest.raises(InvalidRequestError, match="did you mean 'messages'"):
        parse_request(ChatRequest, {"model": "tiny", "mesages": MESSAGES})


def test_unknown_fields_are_ignored_and_do_not_reach_the_engine() -> None:
    body = {"model": "tiny", "messages": MESSAGES, "my_own_thing": 1, "store": True, "user": "u"}
    assert set(engine_body(parse_request(ChatRequest, body), body)) == {"model", "messages"}


def test_very_many_unknown_fields_cost_little() -> None:
    body = {"model": "tiny", "messages": MESSAGES} | {f"x{number}_maximum_y": 1 for number in range(20_000)}

    def seconds() -> float:
        started = time.perf_counter()
        parse_request(ChatRequest, body)
        return time.perf_counter() - started

    in_time(seconds, 1)


def test_the_engine_gets_what_is_asked_of_it() -> None:
    body = {
        "model": "tiny", "messages": MESSAGES, "max_tokens": 3, "max_completion_tokens": 9, "stop": "END",
        "seed": 7, "top_k": 5, "tools": [{"type": "function"}], "tool_choice": "auto", "logprobs": True,
        "presence_penalty": 1, "stream": True, "background": True, "timeout": 5, "temperature": 0,
    }  # fmt: skip
    assert engine_body(parse_request(ChatRequest, body), body) == {
        "model": "tiny", "messages": MESSAGES, "max_tokens": 9, "stop": ["END"], "seed": 7, "top_k": 5,
        "tools": [{"type": "function"}], "tool_choice": "auto", "logprobs": True, "presence_penalty": 1,
        "temperature": 0,
    }  # fmt: skip


def test_values_that_ask_for_nothing_do_not_reach_the_engine() -> None:
    body = {
        "model": "tiny", "messages": MESSAGES, "n": 1, "presence_penalty": 0.0, "frequency_penalty": 0,
        "logit_bias": {}, "logprobs": False, "tools": [], "tool_choice": "none",
        "response_format": {"type": "text"}, "stop": None, "seed": None,
    }  # fmt: skip
    assert set(engine_body(parse_request(ChatRequest, body), body)) == {"model", "messages"}


@pytest.mark.parametrize(
    ("prompt", "field", "value"),
    [
        ("hi", "prompt", "hi"),
        (["hi"], "prompt", "hi"),
        ([1, 2], "prompt_token_ids", [1, 2]),
        ([1], "prompt_token_ids", [1]),
        ([[1, 2]], "prompt_token_ids", [1, 2]),
    ],
)
def test_prompts_are_normalised(prompt: object, field: str, value: object) -> None:
    body = {"model": "tiny", "prompt": prompt}
    assert engine_body(parse_request(CompletionRequest, body), body) == {
        "model": "tiny", field: value, "max_tokens": 16,
    }  # fmt: skip


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b"3", b'"a"', b'{"a":NaN}', b"\xff", b"[" * 100_000, b'{"a":"\xed\xa0\x80"}'],
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="body"):
        decode_object(raw)
