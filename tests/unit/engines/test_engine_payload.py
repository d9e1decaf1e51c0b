from typing import Any

import pytest

from dynamo_tasks.engines import parse_embed, parse_generate
from dynamo_tasks.engines.text.byte_level import ByteTokenizer
from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.instances import ModelCard

CARD = ModelCard(name="m", max_model_len=40)


def parse(payload: Any, **more: Any) -> Any:
    return parse_generate(payload, ByteTokenizer(), CARD, **more)


def test_everything() -> None:
    request = parse(
        {
            "prompt": "hé", "model": "m", "max_tokens": 5, "stop": "x", "stop_token_ids": [3],
            "temperature": 0, "top_p": 0.5, "seed": -4, "n": 2, "ignore_eos": True, "min_tokens": 2,
            "priority": -1, "stream": True, "user": "u", "something": "else", "top_k": 5,
            "presence_penalty": 0,
        },
        request_id="r",
        output_token_ids={1: [65]},
    )  # fmt: skip
    assert request.request_id == "r"
    assert request.prompt_token_ids == [104, 0xC3, 0xA9]
    assert (request.max_tokens, request.stop, request.stop_token_ids) == (5, ["x"], [3])
    assert (request.temperature, request.top_p, request.seed, request.n) == (0.0, 0.5, -4, 2)
    assert (request.ignore_eos, request.min_tokens, request.priority) == (True, 2, -1)
    assert request.output_token_ids == {1: [65]}
    assert request.extra == {"top_k": 5}


def test_none_counts_as_absent() -> None:
    request = parse({"prompt": "a", "messages": None, "max_tokens": None, "stop": None, "n": None})
    assert (request.max_tokens, request.stop, request.n) == (None, [], 1)


def test_prompt_forms() -> None:
    assert parse({"prompt_token_ids": [1, 2]}).prompt_token_ids == [1, 2]
    assert parse({"prompt": [1, 2]}).prompt_token_ids == [1, 2]
    messages = [{"role": "user", "content": "a"}]
    assert bytes(parse({"messages": messages}).prompt_token_ids) == b"user: a\nassistant:"


def test_names_of_max_tokens_and_logprobs() -> None:
    assert parse({"prompt": "a", "max_completion_tokens": 7, "max_tokens": 9}).max_tokens == 7
    assert parse({"prompt": "a", "logprobs": False}).logprobs is None
    assert parse({"prompt": "a", "logprobs": True, "top_logprobs": 3}).logprobs == 3
    assert parse({"prompt": "a", "logprobs": 2}).logprobs == 2


def test_a_list_of_emitted_ids_is_of_choice_0() -> None:
    assert parse({"prompt": "a"}, output_token_ids=[5]).output_token_ids == {0: [5]}


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("max_tokens", -1, "max_tokens"),
        ("max_tokens", "5", "max_tokens"),
        ("max_tokens", True, "max_tokens"),
        ("max_tokens", 1.5, "max_tokens"),
        ("max_completion_tokens", -2, "max_completion_tokens"),
        ("stop", 5, "stop"),
        ("stop", "", "stop"),
        ("stop", ["a", ""], "stop[1]"),
        ("stop", ["a", 1], "stop[1]"),
        ("stop", ["a"] * 65, "stop"),
        ("stop_token_ids", [1, "a"], "stop_token_ids[1]"),
        ("stop_token_ids", 4, "stop_token_ids"),
        ("temperature", "hot", "temperature"),
        ("temperature", 2.1, "temperature"),
        ("temperature", float("nan"), "temperature"),
        ("top_p", -0.1, "top_p"),
        ("top_p", 1.1, "top_p"),
        ("seed", "a", "seed"),
        ("n", 0, "n"),
        ("n", 129, "n"),
        ("ignore_eos", 1, "ignore_eos"),
        ("min_tokens", -1, "min_tokens"),
        ("priority", "high", "priority"),
        ("logprobs", "yes", "logprobs"),
        ("top_logprobs", -1, "top_logprobs"),
        ("top_k", "a", "top_k"),
        ("presence_penalty", 3, "presence_penalty"),
        ("max_tokens", 40, "max_tokens"),
    ],
)
def test_bad_fields(field: str, value: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse({"prompt": "a", field: value})
    assert caught.value.param == param
    assert param.split("[")[0] in caught.value.message or "maximum context length" in caught.value.message


@pytest.mark.parametrize(
    ("payload", "param"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "a", "messages": []}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"prompt_token_ids": []}, "prompt_token_ids"),
        ({"prompt_token_ids": [1, 256]}, "prompt_token_ids[1]"),
        ({"prompt_token_ids": [True]}, "prompt_token_ids[0]"),
        ({"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": 3}, "chat_template_kwargs"),
        ({"prompt": "a", "min_tokens": 3, "max_tokens": 2}, "min_tokens"),
    ],
)
def test_bad_prompts(payload: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(payload)
    assert caught.value.param == param


@pytest.mark.parametrize("payload", [None, 3, "hi", [1]])
def test_payload_must_be_an_object(payload: Any) -> None:
    with pytest.raises(InvalidRequestError, match="must be an object"):
        parse(payload)


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        ("max_token", "max_tokens"),
        ("max-tokens", "max_tokens"),
        ("Temperature", "temperature"),
        ("message", "messages"),
    ],
)
def test_misspelt_fields(field: str, meant: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"did you mean '{meant}'") as caught:
        parse({"prompt": "a", field: 1})
    assert caught.value.param == field


def test_too_long_prompt_gives_both_lengths() -> None:
    with pytest.raises(InvalidRequestError, match=r"length is 40 tokens.* has 41 tokens") as caught:
        parse({"prompt": "a" * 41})
    assert caught.value.param == "prompt"


def test_embed() -> None:
    assert parse_embed({"input": "a"}).inputs == ["a"]
    assert parse_embed({"input": ["a", "b"], "dimensions": 3, "model": "m"}).inputs == ["a", "b"]
    assert parse_embed({"input": [1, 2]}).inputs == [[1, 2]]
    assert parse_embed({"input": [[1], [2]]}).inputs == [[1], [2]]


@pytest.mark.parametrize(
    ("payload", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": {"a": 1}}, "input"),
        ({"input": [1, "a"]}, "input[1]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"inputs": "a"}, "inputs"),
    ],
)
def test_bad_embed(payload: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_embed(payload)
    assert caught.value.param == param
