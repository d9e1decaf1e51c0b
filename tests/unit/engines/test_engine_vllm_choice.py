"""Parameters, resumption and statistics of the vllm engine, without vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_tasks.engines.text.byte_level import ByteTokenizer
from dynamo_tasks.engines.text.request import GenerateRequest
from dynamo_tasks.engines.vllm.choice import ChoiceRequest
from dynamo_tasks.engines.vllm.params import (
    ModelLimits,
    check_request,
    is_replayed,
    may_be_replayed,
    sampling_arguments,
)
from dynamo_tasks.engines.vllm.stats import StatsCollector
from dynamo_tasks.errors import EngineError, InvalidRequestError, NotResumableError

LIMITS = ModelLimits(vocab_size=256, defaults={"temperature": 0.6, "top_p": 0.95, "max_tokens": 9})


def request(**more: Any) -> GenerateRequest:
    return GenerateRequest(request_id="r", prompt_token_ids=[1, 2, 3], **more)


def choice(asked: GenerateRequest, max_tokens: int = 10) -> ChoiceRequest:
    return ChoiceRequest(
        asked, 0, tokenizer=ByteTokenizer(), limits=LIMITS, max_tokens=max_tokens, end_ids=frozenset({0})
    )


def result(ids: list[int], reason: str | None = None, cached: int | None = 0) -> Any:
    output = SimpleNamespace(token_ids=ids, logprobs=None, finish_reason=reason)
    return SimpleNamespace(outputs=[output], num_cached_tokens=cached)


def test_the_models_own_defaults_hold_where_nothing_is_asked() -> None:
    given = sampling_arguments(request(), LIMITS, 0)
    assert (given["temperature"], given["top_p"]) == (0.6, 0.95)
    assert "max_tokens" not in given
    assert "seed" not in given
    given = sampling_arguments(request(temperature=0.0, extra={"top_k": 5}), LIMITS, 0)
    assert (given["temperature"], given["top_k"]) == (0.0, 5)


@pytest.mark.parametrize(
    ("asked", "replayed", "seeded"),
    [
        ({}, False, False),
        ({"temperature": 0}, False, False),
        ({"min_tokens": 3, "stop": ["x"], "logprobs": 2}, False, False),
        ({"extra": {"repetition_penalty": 1.2, "top_k": 3, "min_p": 0.1}}, False, False),
        ({"extra": {"logit_bias": {"5": 1}, "allowed_token_ids": [5]}}, False, False),
        ({"temperature": 0, "seed": 3}, False, True),
        ({"seed": -1}, False, False),
        ({"seed": 3}, True, True),
        ({"extra": {"presence_penalty": 1.0}}, True, True),
        ({"temperature": 0, "extra": {"frequency_penalty": 1.0}}, True, False),
        ({"extra": {"bad_words": ["x"]}}, True, True),
        ({"extra": {"response_format": {"type": "json_object"}}}, True, True),
        ({"extra": {"guided_regex": "a+"}}, True, True),
    ],
)
def test_how_a_request_is_resumed(asked: dict[str, Any], replayed: bool, seeded: bool) -> None:
    given = sampling_arguments(request(**asked), LIMITS, 0)
    assert (is_replayed(given), "seed" in given) == (replayed, seeded)


@pytest.mark.parametrize(
    ("payload", "replayed"),
    [
        ({}, False),
        ({"temperature": 0, "seed": 3}, False),
        ({"temperature": 0.0, "n": 2, "logprobs": 2, "min_tokens": 3, "stop": ["x"]}, False),
        (
            {"seed": None, "presence_penalty": 0.0, "bad_words": [], "response_format": {"type": "text"}},
            False,
        ),
        ({"seed": -1}, False),
        ({"chat": {"tools": [], "tool_choice": "auto"}}, False),
        ({"seed": 3}, True),
        ({"seed": 3, "temperature": "hot"}, True),
        ({"presence_penalty": 1}, True),
        ({"frequency_penalty": -0.5, "temperature": 0}, True),
        ({"bad_words": ["x"]}, True),
        ({"response_format": {"type": "json_object"}}, True),
        ({"structured_outputs": {"regex": "a"}}, True),
        ({"guided_regex": "a+"}, True),
        ({"chat": {"tool_choice": "required"}}, True),
        ({"chat": {"tool_choice": {"type": "function", "function": {"name": "now"}}}}, True),
    ],
)
def test_what_may_be_computed_again_is_known_of_the_payload(payload: dict[str, Any], replayed: bool) -> None:
    assert may_be_replayed(payload, LIMITS) == replayed


def test_seeds_differ_between_choices_and_are_the_same_again() -> None:
    asked = request(extra={"presence_penalty": 1.0})
    seeds = [sampling_arguments(asked, LIMITS, index)["seed"] for index in (0, 1, 0)]
    assert seeds[0] == seeds[2] != seeds[1]
    top = sampling_arguments(request(seed=(1 << 63) - 1), LIMITS, 1)
    assert top["seed"] == -(1 << 63)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"logprobs": 21}, "logprobs"),
        ({"seed": 1 << 63}, "seed"),
        ({"stop_token_ids": [256]}, "stop_token_ids"),
        ({"extra": {"allowed_token_ids": [256]}}, "allowed_token_ids"),
        ({"extra": {"logit_bias": {"256": 1}}}, "logit_bias"),
        ({"extra": {"logit_bias": {"a": 1}}}, "logit_bias"),
        ({"extra": {"logit_bias": {"1": 101}}}, "logit_bias.1"),
        ({"extra": {"logit_bias": [1]}}, "logit_bias"),
        ({"extra": {"echo": True}, "logprobs": 0}, "echo"),
        ({"extra": {"response_format": {"type": "xml"}}}, "response_format.type"),
        ({"extra": {"response_format": {"type": "json_schema", "json_schema": {}}}}, None),
        ({"extra": {"structured_outputs": {"regex": "a", "json": {}}}}, "structured_outputs"),
        ({"extra": {"structured_outputs": {"regexp": "a"}}}, "structured_outputs.regexp"),
        ({"extra": {"structured_outputs": "a"}}, "structured_outputs"),
        ({"extra": {"guided_json": {}, "guided_choice": ["a"]}}, None),
    ],
)
def test_bad_combinations(asked: dict[str, Any], param: str | None) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_request(request(**asked), LIMITS)
    assert caught.value.param
    assert param in (None, caught.value.param)


def test_a_continued_choice_asks_for_the_rest() -> None:
    one = choice(request(output_token_ids={0: [65, 66]}, min_tokens=3))
    assert one.prompt == [1, 2, 3, 65, 66]
    assert (one.arguments["max_tokens"], one.arguments["min_tokens"]) == (8, 1)
    delta = one.take(result([67]))
    assert delta
    assert (delta.text, delta.token_ids, one.output.count) == ("C", [67], 3)


def test_a_replayed_choice_leaves_out_what_was_emitted() -> None:
    one = choice(request(output_token_ids={0: [65, 66]}, seed=1))
    assert (one.prompt, one.arguments["max_tokens"]) == ([1, 2, 3], 10)
    assert one.take(result([65])) is None
    delta = one.take(result([66, 67], "length"))
    assert delta
    assert (delta.text, delta.token_ids, delta.finish_reason) == ("C", [67], "length")


def test_a_replay_that_differs_is_refused() -> None:
    one = choice(request(output_token_ids={0: [65, 66]}, seed=1))
    with pytest.raises(NotResumableError, match="differs from what was streamed"):
        one.take(result([65, 67]))


def test_the_end_comes_from_vllm_or_from_the_text() -> None:
    one = choice(request(stop=["BC"]))
    first = one.take(result([65, 66]))
    assert first
    assert first.text == "A"
    last = one.take(result([67, 68]))
    assert last
    assert (last.text, last.token_ids, last.finish_reason) == ("", [67], "stop")
    ended = choice(request()).take(result([65, 0], "stop"))
    assert ended
    assert (ended.text, ended.token_ids, ended.finish_reason) == ("A", [65, 0], "stop")
    with pytest.raises(EngineError, match="abort"):
        choice(request()).take(result([], "abort"))


def test_an_unfinished_character_is_given_at_the_end() -> None:
    delta = choice(request()).take(result([0xC3], "length"))
    assert delta
    assert (delta.text, delta.finish_reason) == ("\ufffd", "length")


@pytest.mark.parametrize("seed", [None, 1])
def test_logprobs_show_where_their_tokens_begin(seed: int | None) -> None:
    def row(token: int) -> dict[int, Any]:
        return {token: SimpleNamespace(logprob=-1.0, rank=2), 90: SimpleNamespace(logprob=-0.5, rank=1)}

    one = choice(request(output_token_ids={0: [65, 66]}, logprobs=1, seed=seed))
    given = result([65, 66, 67, 68] if seed else [67, 68])
    given.outputs[0].logprobs = [row(token) for token in given.outputs[0].token_ids]
    delta = one.take(given)
    assert delta
    assert delta.logprobs == [
        {
            "token": text, "logprob": -1.0, "bytes": [ord(text)], "text_offset": offset,
            "top_logprobs": [{"token": "Z", "logprob": -0.5, "bytes": [90]}],
        }
        for text, offset in (("C", 2), ("D", 3))
    ]  # fmt: skip


def test_cached_tokens_are_those_of_the_prompt() -> None:
    one = choice(request(output_token_ids={0: [65, 66, 67]}))
    one.take(result([68], cached=6))
    assert one.cached_tokens == 3


def test_stats_of_several_engine_cores() -> None:
    stats = StatsCollector()
    prefix = SimpleNamespace(queries=10, hits=4)
    for index, waiting in ((0, 2), (1, 3), (0, 1)):
        told = SimpleNamespace(num_waiting_reqs=waiting, kv_cache_usage=index / 4, prefix_cache_stats=prefix)
        stats(None, index).record(told, None, engine_idx=index)
    stats.record(None, None)
    assert (stats.waiting, stats.kv_usage, stats.prefix_hit_rate) == (4, 0.25, 0.4)


def test_what_is_only_compared_is_not_waited_for() -> None:
    one = choice(request(seed=3, output_token_ids={0: [1, 2]}), max_tokens=100)
    one.take(result([1]))
    assert one.compares
    one.take(result([2]))
    assert not one.compares
