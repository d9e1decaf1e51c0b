import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dynamo_tasks.engines import GenerateRequest, create_engine
from dynamo_tasks.engines.mocker.engine import MockerArgs, MockerEngine
from dynamo_tasks.engines.mocker.scheduler import Scheduler
from dynamo_tasks.engines.mocker.sequence import KVCache
from dynamo_tasks.engines.mocker.text import PseudoText, text_key
from dynamo_tasks.errors import DynamoError, EngineDeadError, EngineError, InvalidRequestError
from dynamo_tasks.protocol.tokens import CompletionAggregate, TokenDelta


def request(prompt: str = "hello world", **more: Any) -> GenerateRequest:
    return GenerateRequest(request_id="r", prompt_token_ids=list(prompt.encode()), **more)


def with_engine(work: Callable[[MockerEngine], Awaitable[None]], **args: Any) -> None:
    async def main() -> None:
        engine = await MockerEngine(MockerArgs(**args))
        try:
            await work(engine)
        finally:
            await engine.stop()

    asyncio.run(main())


async def answer(engine: MockerEngine, asked: GenerateRequest) -> dict[str, Any]:
    out = CompletionAggregate()
    async for delta in engine.generate(asked):
        out.add(delta)
    return out.result()


async def step() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_text_is_pinned() -> None:
    # Other releases must continue an answer that this one began.
    text = PseudoText(text_key([104, 105], 7, 0))
    assert bytes(text.ids(0, 60)) == PINNED
    assert text.ids(100, 300) == PseudoText(text_key([104, 105], 7, 0)).ids(0, 300)[100:]


PINNED = b"loduva butanegi dera vulovile kisado bireka timabo tukasefi "


def test_text_depends_on_prompt_seed_and_choice() -> None:
    keys = {text_key(prompt, seed, index) for prompt in ([1], [2]) for seed in (0, 1) for index in (0, 1)}
    assert len(keys) == 8

    async def work(engine: MockerEngine) -> None:
        default, same, other = [
            (await answer(engine, request(seed=seed, max_tokens=40)))["text"] for seed in (None, 5, 6)
        ]
        assert default == same != other

    with_engine(work, seed=5)


def test_default_of_max_tokens() -> None:
    async def work(engine: MockerEngine) -> None:
        assert len((await answer(engine, request()))["token_ids"]) == 128

    with_engine(work)

    async def small(engine: MockerEngine) -> None:
        assert len((await answer(engine, request()))["token_ids"]) == 32 - 11

    with_engine(small, num_blocks=8, block_size=4)


def test_prefix_cache_counts_full_blocks_and_never_the_last_token() -> None:
    async def work(engine: MockerEngine) -> None:
        cached = [
            (await answer(engine, request("x" * size, max_tokens=4)))["usage"]["cached_tokens"]
            for size in (32, 32, 33, 40, 10)
        ]
        assert cached == [0, 16, 32, 32, 0]
        assert 0 < engine.stats().prefix_hit_rate < 1
        assert engine.stats().kv_usage == 0

    with_engine(work)


def test_the_next_turn_of_a_chat_finds_the_answer_in_the_cache() -> None:
    async def work(engine: MockerEngine) -> None:
        first = await answer(engine, request("q" * 16, max_tokens=33))
        second = await answer(engine, request("q" * 16 + first["text"] + "more", max_tokens=1))
        assert second["usage"]["cached_tokens"] == 48

    with_engine(work)


def test_prefix_cache_can_be_off() -> None:
    async def work(engine: MockerEngine) -> None:
        for _ in range(2):
            assert (await answer(engine, request("x" * 99, max_tokens=4)))["usage"]["cached_tokens"] == 0

    with_engine(work, enable_prefix_caching=False)


def test_preempted_sequences_give_the_same_text() -> None:
    prompts = [f"prompt {number}" for number in range(6)]
    expected: list[Any] = []

    async def roomy(engine: MockerEngine) -> None:
        expected.extend([await answer(engine, request(prompt, max_tokens=40)) for prompt in prompts])

    running: list[int] = []

    async def tight(engine: MockerEngine) -> None:
        answers = [asyncio.create_task(answer(engine, request(prompt, max_tokens=40))) for prompt in prompts]
        while not any(task.done() for task in answers):
            running.append(engine.stats().running)
            await asyncio.sleep(0)
        found = await asyncio.gather(*answers)
        assert [item["text"] for item in found] == [item["text"] for item in expected]
        stats = engine.stats()
        assert (stats.running, stats.waiting, stats.kv_usage) == (0, 0, 0)

    with_engine(roomy)
    with_engine(tight, num_blocks=16, block_size=4)
    assert any(after < before for before, after in itertools.pairwise(running)), "nobody was preempted"


def test_max_num_seqs_bounds_what_runs_and_priority_goes_first() -> None:
    async def work(engine: MockerEngine) -> None:
        order: list[str] = []

        async def one(name: str, priority: int) -> None:
            await answer(engine, request(name, max_tokens=20, priority=priority))
            order.append(name)

        tasks = [asyncio.create_task(one(*item)) for item in (("a", 0), ("b", 0), ("late", 1), ("first", -1))]
        await step()
        assert (engine.stats().running, engine.stats().waiting) == (1, 3)
        await asyncio.gather(*tasks)
        assert order == ["first", "a", "b", "late"]

    with_engine(work, max_num_seqs=1)


def test_long_prompts_are_computed_in_pieces_while_others_decode() -> None:
    async def work(engine: MockerEngine) -> None:
        short = engine.generate(request("s", max_tokens=200))
        await anext(short)
        before = engine.stats().tokens
        long = await answer(engine, request("l" * 640, max_tokens=1))
        assert long["finish_reason"] == "length"
        assert engine.stats().tokens - before >= 640 // 64
        await short.aclose()

    with_engine(work, max_num_batched_tokens=64, max_num_seqs=4)


def test_time_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[float] = []

    async def note(_: Scheduler, now: float, cost: float) -> None:
        costs.append(round(cost * 1000, 3))
        await asyncio.sleep(0)

    monkeypatch.setattr(Scheduler, "_sleep", note)

    async def work(engine: MockerEngine) -> None:
        await asyncio.gather(*[answer(engine, request("x" * 20, max_tokens=3)) for _ in range(10)])
        assert costs == [pytest.approx(0.05 * (20 + 9 * 4)), 10, 10], "one step for all; they share a block"
        costs.clear()
        await answer(engine, request("p" * 2000, max_tokens=1))
        await answer(engine, request("p" * 2000, max_tokens=1))
        assert costs == [100, 0.8], "the second is in the prefix cache but for one block"

    with_engine(work, token_delay_ms=10, prefill_ms_per_1k_tokens=50)


def test_steps_take_their_time() -> None:
    async def work(engine: MockerEngine) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.gather(*[answer(engine, request(f"{i}", max_tokens=11)) for i in range(20)])
        assert loop.time() - start >= 0.099, "10 steps of 10 ms"

    with_engine(work, token_delay_ms=10)


def test_abort_frees_at_once_running_and_waiting() -> None:
    async def work(engine: MockerEngine) -> None:
        streams = [engine.generate(request(f"{i}", max_tokens=5000)) for i in range(2)]
        await anext(streams[0])
        waiting = asyncio.create_task(anext(streams[1]))
        await step()
        assert (engine.stats().running, engine.stats().waiting) == (1, 1)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert (engine.stats().running, engine.stats().waiting) == (1, 0)
        await streams[0].aclose()
        assert (engine.stats().running, engine.stats().kv_usage) == (0, 0)

    with_engine(work, max_num_seqs=1)


def test_tokens_that_gathered_are_one_delta() -> None:
    async def work(engine: MockerEngine) -> None:
        stream = engine.generate(request(max_tokens=50))
        await anext(stream)
        for _ in range(10):
            await asyncio.sleep(0)
        assert len((await anext(stream)).token_ids) >= 9
        await stream.aclose()

    with_engine(work)


def test_stop_ends_what_runs() -> None:
    async def main() -> None:
        engine = await MockerEngine(MockerArgs(token_delay_ms=1000))
        stream = engine.generate(request(max_tokens=9))
        await anext(stream)
        pending = asyncio.create_task(anext(stream))
        await step()
        await engine.stop()
        assert (engine.stats().running, engine.stats().kv_usage) == (0, 0)
        with pytest.raises(EngineDeadError, match="was stopped"):
            await pending
        await engine.stop()
        with pytest.raises(EngineError, match="not started"):
            engine.generate(request())
        await engine.start()
        await engine.start()
        assert (await answer(engine, request(max_tokens=1)))["finish_reason"] == "length"
        await engine.stop()

    asyncio.run(main())


def test_a_dead_scheduler_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of luck")

    async def work(engine: MockerEngine) -> None:
        monkeypatch.setattr(KVCache, "take", broken)
        with pytest.raises(EngineDeadError, match="out of luck"):
            await answer(engine, request())
        with pytest.raises(EngineDeadError, match="out of luck"):
            engine.check_health()
        with pytest.raises(EngineDeadError, match="out of luck"):
            engine.generate(request())

    with_engine(work)


def test_what_it_cannot_do_is_refused() -> None:
    async def work(engine: MockerEngine) -> None:
        for field, value in [
            ("suffix", "x"),
            ("prompt_logprobs", 1),
            ("guided_grammar", "root ::= x"),
            ("guided_regex", "a+"),
        ]:
            with pytest.raises(InvalidRequestError, match=f"'mocker' does not support {field}") as caught:
                engine.generate({"prompt": "a", field: value})
            assert caught.value.param == field
        await answer(engine, request("a", extra={"top_k": 3}))
        with pytest.raises(InvalidRequestError, match=r"length is 10 tokens.* has 11 tokens"):
            await anext(engine.generate(request()))

    with_engine(work, max_model_len=10)


def test_generate_takes_a_payload() -> None:
    async def work(engine: MockerEngine) -> None:
        deltas: list[TokenDelta] = [
            delta async for delta in engine.generate({"messages": [{"role": "user", "content": "a"}], "n": 2})
        ]
        assert deltas[-1].usage == {"prompt_tokens": 18, "completion_tokens": 256, "cached_tokens": 0}

    with_engine(work)


def test_only_engines_with_memory_to_give_sleep() -> None:
    async def work() -> None:
        echo = await create_engine("echo")
        for refused in (echo.sleep(1), echo.wake_up()):
            with pytest.raises(DynamoError, match=r"engine 'echo' (cannot|does not) sleep"):
                await refused
        mocker = await create_engine("mocker")
        await mocker.sleep(1)
        with pytest.raises(EngineError, match="sleeps"):
            await anext(mocker.generate({"prompt": "hi"}))
        await mocker.wake_up()
        assert await anext(mocker.generate({"prompt": "hi"}))
        await mocker.stop()

    asyncio.run(work())
