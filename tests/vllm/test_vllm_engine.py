"""The engine by itself: text, stops, batches, prefix cache, abort."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks.engines import Engine
from dynamo_tasks.engines.text.prompts import prompt_ids
from dynamo_tasks.errors import DynamoError, InvalidRequestError, UnknownModelError
from tests.support.promises import in_time
from tests.vllm.conftest import Bench

PROMPT = "A queue is a promise: what went in comes out, once, in order. Ein Wörterbuch kennt Größe. 你好 🙂 "
GREEDY = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}


def test_the_model_card_is_that_of_the_model(bench: Bench) -> None:
    card = bench.engine.card
    assert (card.name, card.kind, card.max_model_len) == ("tiny", "chat", 512)
    assert bench.engine.tokenizer.vocab_size == 1024
    assert bench.engine.max_num_seqs == 64


def test_text_is_that_of_the_ids_and_max_tokens_ends_it(bench: Bench) -> None:
    text, ids, reason = bench.answer({"prompt": PROMPT, **GREEDY})
    assert (len(ids), reason) == (24, "length")
    assert text == bench.engine.tokenizer.decode(ids)
    assert bench.answer({"prompt": PROMPT, **GREEDY}) == (text, ids, reason)


def test_multi_byte_text_comes_in_whole_characters(bench: Bench) -> None:
    wanted = "Ω𝄞Ж漢 Größe"  # the tokenizer has no tokens for some of these, only for their bytes
    regex = {"structured_outputs": {"regex": wanted}}
    deltas = bench.deltas({"prompt": PROMPT, **regex, "max_tokens": 40})
    assert "".join(delta.text for delta in deltas) == wanted
    assert not any("\ufffd" in delta.text for delta in deltas)
    assert any(not delta.text for delta in deltas[:-1])


@pytest.mark.parametrize(("start", "length"), [(0, 3), (7, 4), (20, 6)])
def test_stop_strings_that_span_tokens(bench: Bench, start: int, length: int) -> None:
    whole, ids, _ = bench.answer({"prompt": PROMPT, **GREEDY})
    stop = whole[start : start + length]
    place = whole.index(stop)
    cut = {"prompt": PROMPT, **GREEDY, "stop": ["\x00never", stop]}
    text, some, reason = bench.answer(cut)
    assert (text, reason) == (whole[:place], "stop")
    assert some == ids[: len(some)]
    text, again, reason = bench.answer({**cut, "include_stop_str_in_output": True})
    assert (text, again, reason) == (whole[: place + length], some, "stop")


def test_stop_token_ids_and_min_tokens(bench: Bench) -> None:
    _, ids, _ = bench.answer({"prompt": PROMPT, **GREEDY})
    stop = {"prompt": PROMPT, **GREEDY, "stop_token_ids": [ids[5]]}
    first = ids.index(ids[5]) + 1
    assert bench.answer(stop)[1:] == (ids[:first], "stop")
    _, later, _ = bench.answer({**stop, "min_tokens": first})
    assert len(later) > first


def test_the_models_own_end_token(bench: Bench) -> None:
    end = bench.engine.tokenizer.encode("<|end|>", add_special_tokens=False)
    assert len(end) == 1
    asked = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0, "allowed_token_ids": end}
    assert bench.answer(asked) == ("", end, "stop")
    text, ids, reason = bench.answer({**asked, "ignore_eos": True, "skip_special_tokens": False})
    assert (text, ids, reason) == ("<|end|>" * 8, end * 8, "length")


def test_prefix_cache_hits_are_seen(bench: Bench) -> None:
    long = {"prompt_token_ids": list(range(300, 400)), **GREEDY, "max_tokens": 2}
    usages = [bench.deltas(long)[-1].usage for _ in range(2)]
    assert [usage and usage["cached_tokens"] for usage in usages] == [0, 96]
    assert 0 < bench.engine.stats().prefix_hit_rate < 1


def test_the_prefix_cache_is_not_shared_across_salts(bench: Bench) -> None:
    long = {"prompt_token_ids": list(range(500, 600)), **GREEDY, "max_tokens": 2}
    salts = ["a", "a", "b", None, "b"]
    usages = [bench.deltas({**long, "cache_salt": salt})[-1].usage for salt in salts]
    assert [usage and usage["cached_tokens"] for usage in usages] == [0, 96, 0, 0, 96]


def test_the_prompt_alone(bench: Bench) -> None:
    (only,) = bench.deltas({"prompt": "again", "max_tokens": 0, "echo": True})
    assert (only.text, only.token_ids, only.finish_reason) == ("again", [], "length")
    assert only.usage
    assert only.usage["completion_tokens"] == 0


def test_a_share_of_nothing_is_the_likeliest_token(bench: Bench) -> None:
    greedy = bench.answer({"prompt": PROMPT, **GREEDY, "max_tokens": 8})
    assert bench.answer({"prompt": PROMPT, "temperature": 1, "top_p": 0, "max_tokens": 8}) == greedy


def test_a_regex_that_never_ends_leaves_the_loop_alone(bench: Bench) -> None:
    """It is given up before the lease of the worker, whose loop this is, could run out."""

    async def longest_gap() -> float:
        gaps = []

        async def ask() -> None:
            with contextlib.suppress(DynamoError):
                async for _ in bench.engine.generate(
                    {
                        "prompt": PROMPT,
                        "guided_regex": "((((a{0,99}b?){0,99}c?){0,99}d?){0,99}e?){0,99}",
                        "max_tokens": 1,
                    }
                ):
                    pass

        asking = asyncio.create_task(ask())
        while not asking.done():
            began = time.monotonic()
            await asyncio.wait([asking], timeout=0.01)
            gaps.append(time.monotonic() - began)
        return max(gaps)

    in_time(lambda: float(bench.run(longest_gap())), 2.5)


def test_64_at_once_say_what_they_say_alone(bench: Bench) -> None:
    asked = [{"prompt": f"{number} {PROMPT}", **GREEDY} for number in range(64)]
    alone = [bench.answer(asked[number]) for number in (0, 31, 63)]
    most = 0

    async def one(payload: dict[str, Any]) -> list[int]:
        nonlocal most
        ids: list[int] = []
        async for delta in bench.engine.generate(payload):
            ids += delta.token_ids
            most = max(most, bench.engine.stats().running)
        return ids

    async def together() -> list[list[int]]:
        return await asyncio.gather(*[one(payload) for payload in asked])

    before = bench.engine.stats().tokens
    found = bench.run(together())
    assert [found[number] for number in (0, 31, 63)] == [ids for _, ids, _ in alone]
    assert most > 32
    assert bench.engine.stats().tokens == before + 64 * 24


def test_what_gathers_while_many_streams_rest_comes_whole(bench: Bench) -> None:
    asked = [
        {"prompt": f"{number} {PROMPT}", **GREEDY, "max_tokens": 60, "logprobs": 1} for number in range(48)
    ]
    alone = [bench.answer(asked[number])[1] for number in (0, 47)]

    async def one(payload: dict[str, Any]) -> list[Any]:
        return [delta async for delta in bench.engine.generate(payload)]

    async def together() -> list[list[Any]]:
        return await asyncio.gather(*[one(payload) for payload in asked])

    found = bench.run(together())
    ids = [[token for delta in deltas for token in delta.token_ids] for deltas in found]
    assert [ids[0], ids[47]] == alone
    assert all(len(deltas) < 40 for deltas in found), "tokens did not gather"
    for deltas, tokens in zip(found, ids, strict=True):
        rows = [row for delta in deltas for row in delta.logprobs or []]
        assert [row["token"] for row in rows] == [
            bench.engine.tokenizer.decode([t], skip_special_tokens=False) for t in tokens
        ]


def test_an_abort_frees_at_once(bench: Bench) -> None:
    async def work(engine: Engine) -> None:
        streams = [
            engine.generate({"prompt": f"{number} {PROMPT}", **GREEDY, "max_tokens": 400})
            for number in range(4)
        ]
        for stream in streams:
            await anext(stream)
        assert engine.stats().running + engine.stats().waiting == 4
        for left, stream in zip((3, 2, 1, 0), streams, strict=True):
            await stream.aclose()
            assert engine.stats().running + engine.stats().waiting == left
        vllm: Any = engine
        assert vllm._vllm.llm.get_num_unfinished_requests() == 0

    bench.run(work(bench.engine))


def test_several_choices_differ_and_have_one_usage(bench: Bench) -> None:
    deltas = bench.deltas({"prompt": PROMPT, "n": 3, "max_tokens": 6, "seed": 1, "ignore_eos": True})
    texts = {i: [t for d in deltas if d.index == i for t in d.token_ids] for i in range(3)}
    assert [len(ids) for ids in texts.values()] == [6, 6, 6]
    assert len({tuple(ids) for ids in texts.values()}) == 3
    assert [delta.usage is not None for delta in deltas] == [False] * (len(deltas) - 1) + [True]
    assert deltas[-1].usage == {
        "prompt_tokens": len(bench.engine.tokenizer.encode(PROMPT)), "completion_tokens": 18,
        "cached_tokens": deltas[-1].usage["cached_tokens"] if deltas[-1].usage else 0,
    }  # fmt: skip


def test_echo_gives_the_prompt_first(bench: Bench) -> None:
    text, ids, _ = bench.answer({"prompt": "again", **GREEDY, "echo": True})
    assert text == "again" + bench.engine.tokenizer.decode(ids)


def test_logprobs(bench: Bench) -> None:
    deltas = bench.deltas({"prompt": PROMPT, **GREEDY, "max_tokens": 4, "logprobs": 2})
    entries = [entry for delta in deltas for entry in delta.logprobs or []]
    assert len(entries) == 4
    for entry in entries:
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"] < 0
        assert len(entry["top_logprobs"]) == 2
    assert "".join(delta.text for delta in deltas)


def test_structured_output(bench: Bench) -> None:
    schema = {
        "type": "object", "properties": {"age": {"type": "integer", "maximum": 99}}, "required": ["age"],
        "additionalProperties": False,
    }  # fmt: skip
    wanted = {"type": "json_schema", "json_schema": {"name": "p", "schema": schema}}
    text, _, reason = bench.answer(
        {"prompt": PROMPT, "response_format": wanted, "max_tokens": 200, "temperature": 0}
    )
    assert reason in ("stop", "length")
    assert text.lstrip().startswith("{")
    choice = {"prompt": PROMPT, "guided_choice": ["red", "blue"], "max_tokens": 20}
    assert bench.answer(choice)[0] in ("red", "blue")


def test_another_model_is_refused(bench: Bench) -> None:
    assert bench.answer({"prompt": PROMPT, **GREEDY, "max_tokens": 1, "model": "tiny"})[1]
    with pytest.raises(UnknownModelError, match="model 'other' is not served here; served: tiny"):
        bench.answer({"prompt": PROMPT, "model": "other"})


def test_logit_bias_decides(bench: Bench) -> None:
    biased = {"prompt": PROMPT, **GREEDY, "max_tokens": 3, "logit_bias": {"700": 100}}
    assert bench.answer(biased)[1] == [700] * 3


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"prompt": "x " * 600}, "prompt", "context length is 512 tokens.* your request has 1201 tokens"),
        ({"max_tokens": 600}, "max_tokens", "600 in the completion"),
        ({"guided_regex": "x" * 300_000}, "guided_regex", "at most 262144"),
        ({"logit_bias": {"5000": 1}}, "logit_bias", "ids go from 0 to 1023"),
        ({"stop_token_ids": [5000]}, "stop_token_ids", "ids go from 0 to 1023"),
        ({"logprobs": 30}, "logprobs", "at most 20"),
        ({"echo": True, "logprobs": 1}, "echo", "not allowed together with logprobs"),
        ({"best_of": 3}, "best_of", "does not support best_of"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_regex", "not allowed together with guided_json"),
        ({"structured_outputs": {"regex": "("}}, None, "regex"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema", "JSON schema"),
    ],
)
def test_bad_requests(bench: Bench, change: dict[str, Any], param: str | None, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says) as caught:
        bench.answer({"prompt": PROMPT, **change})
    assert caught.value.param == param
    assert bench.engine.stats().running == 0


def test_the_prompt_is_that_of_transformers(bench: Bench, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tiny_model)
    call = {"name": "get_weather", "arguments": {"city": "Köln"}}
    tools: list[dict[str, Any]] = [
        {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
    ]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief. 🙂"},
        {"role": "user", "content": "Wie ist das Wetter?"},
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": "12 °C", "tool_call_id": "1"},
    ]
    for given in (None, tools):
        expected = theirs.apply_chat_template(
            messages, tools=given, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        payload = {"messages": messages, "tools": given}
        assert prompt_ids(payload, bench.engine.tokenizer, bench.engine.card) == expected
    assert prompt_ids({"prompt": PROMPT}, bench.engine.tokenizer, bench.engine.card) == theirs.encode(PROMPT)
