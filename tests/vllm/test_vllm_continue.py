"""What an interrupted request says after it was continued is what it would have said."""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_tasks.errors import NotResumableError
from tests.vllm.conftest import Bench

PROMPT = "def main(argv): the quick brown fox jumps, again and again, until the evening comes. 🙂 "
LENGTH = 20

CONTINUED: list[dict[str, Any]] = [
    {},
    {"stop": ["\x00"]},
    {"min_tokens": 15},
    {"repetition_penalty": 1.3},
    {"logit_bias": {"700": 2.5}},
    {"logprobs": 2},
    {"allowed_token_ids": list(range(5, 200))},
]
"""Greedy requests that go on from prompt + emitted ids."""

REPLAYED: list[dict[str, Any]] = [
    {"presence_penalty": 1.5},
    {"frequency_penalty": 1.5},
    {"bad_words": ["quick brown"]},
    {"structured_outputs": {"regex": "[a-z]{60}"}},
    {"temperature": 0.9, "seed": 7},
    {"temperature": 0.9, "top_p": 0.9, "top_k": 50, "min_p": 0.01, "seed": 7},
    {"temperature": 0.9, "frequency_penalty": 1.0},
    {"temperature": 0.9, "structured_outputs": {"regex": "[a-z]{60}"}},
]
"""Requests that are computed again and compared; those without a seed get one from their id."""


def _payload(change: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": PROMPT, "temperature": 0, "max_tokens": LENGTH, "ignore_eos": True} | change


@pytest.mark.parametrize("change", [*CONTINUED, *REPLAYED], ids=str)
def test_a_continued_answer_is_the_uninterrupted_one(bench: Bench, change: dict[str, Any]) -> None:
    payload = _payload(change)
    _, ids, reason = bench.answer(payload, request_id="r")
    assert (len(ids), reason) == (LENGTH, "length")
    for position in (1, 7, LENGTH - 1, LENGTH):
        before = {0: ids[:position]}
        deltas = bench.deltas(payload, request_id="r", output_token_ids=before)
        assert ids[:position] + [token for delta in deltas for token in delta.token_ids] == ids
        assert deltas[-1].finish_reason == "length"
        assert deltas[-1].usage
        assert deltas[-1].usage["completion_tokens"] == LENGTH


def test_the_text_is_continued_in_the_middle_of_a_character(bench: Bench) -> None:
    regex = {"structured_outputs": {"regex": "🙂🚀你"}}
    payload = _payload({**regex, "max_tokens": 30, "ignore_eos": False})
    text, ids, _ = bench.answer(payload)
    assert text == "🙂🚀你"
    for position in range(1, len(ids)):
        before = bench.engine.tokenizer.stream()
        given = before.push(ids[:position])
        rest, _, _ = bench.answer(payload, output_token_ids={0: ids[:position]})
        assert given + rest == text


def test_stop_strings_across_the_interruption(bench: Bench) -> None:
    whole, ids, _ = bench.answer(_payload({}))
    stop = whole[10:18]
    text, some, reason = bench.answer(_payload({"stop": [stop]}))
    assert (text, reason) == (whole[:10], "stop")
    for position in range(1, len(some)):
        _, rest, reason = bench.answer(_payload({"stop": [stop]}), output_token_ids={0: ids[:position]})
        assert (ids[:position] + rest, reason) == (some, "stop")


def test_each_choice_is_continued_from_where_it_was(bench: Bench) -> None:
    payload = _payload({"n": 3, "temperature": 0.8, "seed": 5})
    deltas = bench.deltas(payload)
    ids = {i: [token for d in deltas if d.index == i for token in d.token_ids] for i in range(3)}
    before = {0: ids[0], 1: ids[1][:5], 2: []}
    rest = bench.deltas(payload, output_token_ids=before)
    for index in range(3):
        found = [token for d in rest if d.index == index for token in d.token_ids]
        assert before[index] + found == ids[index]
    assert next(d for d in rest if d.index == 0).finish_reason == "length"


def test_an_answer_that_ended_with_the_end_token_is_not_continued(bench: Bench) -> None:
    end = bench.engine.tokenizer.encode("<|end|>", add_special_tokens=False)
    payload = {"prompt": PROMPT, "max_tokens": LENGTH}
    deltas = bench.deltas(payload, output_token_ids={0: [400, 401, *end]})
    assert [(delta.token_ids, delta.finish_reason) for delta in deltas] == [([], "stop")]


def test_a_replay_that_says_something_else_is_refused(bench: Bench) -> None:
    with pytest.raises(NotResumableError, match="differs from what was streamed"):
        bench.answer(_payload({"seed": 3, "temperature": 1.5}), output_token_ids={0: [5, 5, 5, 5]})
    assert bench.engine.stats().running == 0
