"""What every engine must do, whatever it is."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dynamo_tasks.engines import Engine, GenerateRequest, create_engine
from dynamo_tasks.errors import EngineError, InvalidRequestError
from dynamo_tasks.protocol.tokens import TokenDelta

Work = Callable[[Engine], Awaitable[None]]

PROMPT = "The naïve fox · jumps 🙂 over the lazy dog, again and again."
LENGTH = 24


@pytest.fixture(params=["echo", "mocker"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def with_engine(name: str, work: Work, **args: Any) -> None:
    async def main() -> None:
        engine = await create_engine(name, **args)
        try:
            await work(engine)
            assert (engine.stats().running, engine.stats().waiting, engine.stats().kv_usage) == (0, 0, 0.0)
        finally:
            await engine.stop()

    asyncio.run(main())


def request(prompt: str = PROMPT, **more: Any) -> GenerateRequest:
    ids = list(prompt.encode())
    return GenerateRequest(request_id="r", prompt_token_ids=ids, **({"max_tokens": LENGTH} | more))


class Choice:
    """All deltas of one choice."""

    def __init__(self, deltas: list[TokenDelta]) -> None:
        self.text = "".join(delta.text for delta in deltas)
        self.ids = [token for delta in deltas for token in delta.token_ids]
        self.reasons = [delta.finish_reason for delta in deltas]
        self.deltas = deltas

    def key(self) -> tuple[str, list[int], str | None]:
        return self.text, self.ids, self.reasons[-1]


async def collect(engine: Engine, asked: GenerateRequest) -> tuple[list[Choice], dict[str, int]]:
    deltas = [delta async for delta in engine.generate(asked)]
    assert [delta.usage is not None for delta in deltas] == [False] * (len(deltas) - 1) + [True]
    choices = [Choice([d for d in deltas if d.index == index]) for index in range(asked.n)]
    for choice in choices:
        assert [reason is not None for reason in choice.reasons] == [False] * (len(choice.reasons) - 1) + [
            True
        ]
    assert deltas[-1].usage is not None
    return choices, deltas[-1].usage


async def one(engine: Engine, asked: GenerateRequest) -> Choice:
    return (await collect(engine, asked))[0][0]


def test_text_is_that_of_the_ids_and_max_tokens_ends_it(name: str) -> None:
    async def work(engine: Engine) -> None:
        for limit in (1, 2, 6, 7, 20, 24):
            choice = await one(engine, request(max_tokens=limit))
            assert choice.text == engine.tokenizer.decode(choice.ids)
            assert (len(choice.ids), choice.reasons[-1]) == (limit, "length")

    with_engine(name, work)


def test_it_streams(name: str) -> None:
    async def work(engine: Engine) -> None:
        choice = await one(engine, request())
        assert len(choice.deltas) >= 3
        assert choice.deltas[0].token_ids

    with_engine(name, work)


def test_same_request_same_answer(name: str) -> None:
    async def work(engine: Engine) -> None:
        assert (await one(engine, request())).key() == (await one(engine, request())).key()

    with_engine(name, work)


def test_usage(name: str) -> None:
    async def work(engine: Engine) -> None:
        _, used = await collect(engine, request(n=3, max_tokens=5))
        assert used["prompt_tokens"] == len(PROMPT.encode())
        assert used["completion_tokens"] == 15
        assert 0 <= used["cached_tokens"] < used["prompt_tokens"]
        before = engine.stats().tokens
        await one(engine, request(max_tokens=5))
        assert engine.stats().tokens == before + 5

    with_engine(name, work)


def test_stop_strings_that_span_tokens(name: str) -> None:
    async def work(engine: Engine) -> None:
        whole = (await one(engine, request(max_tokens=40))).text
        for start in (0, 5, 17):
            stop = whole[start : start + 4]
            choice = await one(engine, request(max_tokens=40, stop=["\x00never", stop]))
            place = whole.index(stop)
            assert (choice.text, choice.reasons[-1]) == (whole[:place], "stop")
            assert engine.tokenizer.decode(choice.ids) == whole[: place + len(stop)]

    with_engine(name, work)


def test_a_stop_that_only_begins_is_shown_in_the_end(name: str) -> None:
    async def work(engine: Engine) -> None:
        whole = (await one(engine, request())).text
        choice = await one(engine, request(stop=[whole[-2:] + "\x00"]))
        assert (choice.text, choice.reasons[-1]) == (whole, "length")

    with_engine(name, work)


def test_stop_token_ids_and_min_tokens(name: str) -> None:
    async def work(engine: Engine) -> None:
        whole = await one(engine, request())
        token = whole.ids[9]
        first = whole.ids.index(token)
        choice = await one(engine, request(stop_token_ids=[token]))
        assert (choice.ids, choice.reasons[-1]) == (whole.ids[: first + 1], "stop")
        assert choice.text == engine.tokenizer.decode(whole.ids[:first])
        later = await one(engine, request(stop_token_ids=[token], min_tokens=first + 1))
        assert later.ids[: first + 1] == choice.ids
        assert len(later.ids) > len(choice.ids)

    with_engine(name, work)


@pytest.mark.parametrize("stop", [[], ["\x00"], None])
def test_continuation_at_every_position(name: str, stop: list[str] | None) -> None:
    async def work(engine: Engine) -> None:
        plain = await one(engine, request(max_tokens=30))
        stops = [plain.text[18:22]] if stop is None else stop
        whole = await one(engine, request(max_tokens=30, stop=stops))
        pieces = await _by_token(engine, request(max_tokens=30, stop=stops))
        for position in range(len(whole.ids) + 1):
            asked = request(max_tokens=30, stop=stops, output_token_ids={0: whole.ids[:position]})
            (rest,), used = await collect(engine, asked)
            assert whole.ids[:position] + rest.ids == whole.ids
            assert "".join(pieces[:position]) + rest.text == whole.text
            assert rest.reasons[-1] == whole.reasons[-1]
            assert used["completion_tokens"] == len(whole.ids)

    with_engine(name, work)


async def _by_token(engine: Engine, asked: GenerateRequest) -> list[str]:
    """The text that was out after each token, had every token been a delta of its own."""
    from dynamo_tasks.engines.text.output import ChoiceOutput

    whole = await one(engine, asked)
    out = ChoiceOutput(asked, 0, engine.tokenizer, len(whole.ids))
    texts = [out.push([token]).text for token in whole.ids]
    assert "".join(texts) == whole.text
    return texts


def test_several_choices_are_complete_and_can_be_continued(name: str) -> None:
    async def work(engine: Engine) -> None:
        choices, _ = await collect(engine, request(n=3))
        assert [len(choice.ids) for choice in choices] == [LENGTH] * 3
        assert choices[0].key() == (await one(engine, request())).key()
        done = {0: choices[0].ids, 1: choices[1].ids[:7]}
        rest, used = await collect(engine, request(n=3, output_token_ids=done))
        assert [done.get(i, []) + choice.ids for i, choice in enumerate(rest)] == [c.ids for c in choices]
        assert rest[0].deltas == [TokenDelta("", [], 0, "length")]
        assert used["completion_tokens"] == 3 * LENGTH

    with_engine(name, work)


@pytest.mark.parametrize("delay", [0, 5])
def test_closing_the_generator_frees_everything_at_once(name: str, delay: float) -> None:
    async def work(engine: Engine) -> None:
        streams = [engine.generate(request(f"{i} {PROMPT}")) for i in range(5)]
        for stream in streams:
            await anext(stream)
        assert engine.stats().running == 5
        for left, stream in zip((4, 3, 2, 1, 0), streams, strict=True):
            await stream.aclose()
            assert engine.stats().running == left
        assert engine.stats().kv_usage == 0

    with_engine(name, work, token_delay_ms=delay)


def test_cancelling_the_consumer_frees_everything_at_once(name: str) -> None:
    async def work(engine: Engine) -> None:
        begun = asyncio.Event()

        async def consume() -> None:
            async for _ in engine.generate(request()):
                begun.set()

        task = asyncio.create_task(consume())
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert (engine.stats().running, engine.stats().kv_usage) == (0, 0)

    with_engine(name, work, token_delay_ms=10_000)


def test_an_abort_does_not_touch_the_neighbours(name: str) -> None:
    async def work(engine: Engine) -> None:
        expected = await one(engine, request())
        doomed = engine.generate(request("other " + PROMPT))
        neighbour = asyncio.create_task(one(engine, request()))
        await anext(doomed)
        await doomed.aclose()
        assert (await neighbour).key() == expected.key()

    with_engine(name, work)


def test_more_requests_than_slots(name: str) -> None:
    async def work(engine: Engine) -> None:
        assert engine.max_num_seqs == 2
        tasks = [asyncio.create_task(one(engine, request(f"{i} {PROMPT}"))) for i in range(6)]
        most = 0
        while not all(task.done() for task in tasks):
            most = max(most, engine.stats().running)
            await asyncio.sleep(0)
        assert most == 2
        assert all(len(task.result().ids) == LENGTH for task in tasks)

    with_engine(name, work, max_num_seqs=2)


def test_256_at_once(name: str) -> None:
    async def work(engine: Engine) -> None:
        asked = [request(f"{i} {PROMPT}") for i in range(256)]
        alone = [await one(engine, asked[i]) for i in (0, 100, 255)]
        together = await asyncio.gather(*[one(engine, item) for item in asked])
        assert [together[i].key() for i in (0, 100, 255)] == [choice.key() for choice in alone]

    with_engine(name, work)


def test_payloads_and_bad_requests(name: str) -> None:
    async def work(engine: Engine) -> None:
        messages = [{"role": "user", "content": PROMPT}]
        payload = {"messages": messages, "max_tokens": 6, "model": engine.card.name, "stream": True}
        assert [delta async for delta in engine.generate(payload)][-1].finish_reason == "length"
        refused: list[tuple[dict[str, Any], str]] = [
            ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
            ({"messages": []}, "messages"),
            ({"prompt": "a", "suffix": "x"}, "suffix"),
            ({"prompt": "a" * 101}, "prompt"),
        ]
        for bad, param in refused:
            with pytest.raises(InvalidRequestError) as caught:
                engine.generate(bad)
            assert caught.value.param == param

    with_engine(name, work, max_model_len=100)


def test_a_prompt_that_is_too_long_is_refused(name: str) -> None:
    async def work(engine: Engine) -> None:
        assert engine.card.max_model_len == 16
        with pytest.raises(InvalidRequestError, match=r"length is 16 tokens.* has 17 tokens"):
            engine.generate({"prompt": "a" * 17})
        choice = [delta async for delta in engine.generate({"prompt": "a" * 10})]
        assert sum(len(delta.token_ids) for delta in choice) == 6
        assert choice[-1].finish_reason == "length"

    with_engine(name, work, max_model_len=16)


def test_it_must_be_started_and_stops_twice(name: str) -> None:
    async def main() -> None:
        engine = create_engine(name)
        with pytest.raises(EngineError, match="not started"):
            engine.generate(request())
        await engine.start()
        engine.check_health()
        await engine.stop()
        await engine.stop()
        with pytest.raises(EngineError, match="not started"):
            engine.check_health()

    asyncio.run(main())


def test_embeddings(name: str) -> None:
    async def work(engine: Engine) -> None:
        found = await engine.embed(["a cat", "a dog", [97, 32]], 16)
        assert [len(vector) for vector in found.vectors] == [16] * 3
        assert found.prompt_tokens == 12
        assert found == await engine.embed(["a cat", "a dog", "a "], 16)
        assert len((await engine.embed(["x"], None)).vectors[0]) == 256
        inputs: list[tuple[list[str | list[int]], int | None, str]] = [
            ([], None, "input"),
            (["a", ""], None, "input[1]"),
            (["a"], 0, "dimensions"),
            (["a" * 200], None, "input[0]"),
            ([[300]], None, "input[0][0]"),
        ]
        for given, dimensions, param in inputs:
            with pytest.raises(InvalidRequestError) as caught:
                await engine.embed(given, dimensions)
            assert caught.value.param == param

    with_engine(name, work, max_model_len=100)


def test_echo_gives_the_prompt_and_in_chat_the_last_user_message() -> None:
    async def work(engine: Engine) -> None:
        choice = await one(engine, request(max_tokens=None))
        assert (choice.text, choice.reasons[-1]) == (PROMPT, "stop")
        messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi 🙂"}]
        deltas = [delta async for delta in engine.generate({"messages": messages})]
        assert "".join(delta.text for delta in deltas) == "hi 🙂"

    with_engine("echo", work)


@pytest.mark.parametrize("stop", [[], ["again.\x00"]])
def test_echo_is_continued_up_to_the_end_of_the_prompt(stop: list[str]) -> None:
    async def work(engine: Engine) -> None:
        whole = await one(engine, request(max_tokens=None, stop=stop))
        pieces = await _by_token(engine, request(max_tokens=None, stop=stop))
        for position in range(len(whole.ids) + 1):
            asked = request(max_tokens=None, stop=stop, output_token_ids={0: whole.ids[:position]})
            rest = await one(engine, asked)
            assert "".join(pieces[:position]) + rest.text == whole.text
            assert rest.reasons[-1] == "stop"

    with_engine("echo", work)
