"""The tokens of a stream that rests gather outside of vLLM: none is lost, none is given twice, and in order."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_tasks.engines.vllm.outputs import OutputBuffer, OutputBuffers


class Queue:
    """vLLM's ``RequestOutputCollector``: outputs that nobody took are merged."""

    def __init__(self) -> None:
        self.output: list[int] | None = None

    def put(self, ids: list[int]) -> None:
        self.output = [*(self.output or []), *ids]

    def take(self) -> list[int]:
        ids, self.output = self.output or [], None
        return ids


class Vllm:
    """As much of ``AsyncLLM`` as a tap touches, with the streams ``a`` and ``b``."""

    def __init__(self, *, log_stats: bool = False, interval: int = 1):
        self.log_stats = log_stats
        self.queues = {name: Queue() for name in ("a", "b")}
        self.made = dict.fromkeys(self.queues, 0)
        self.seen = 0
        states = {
            f"{name}-1": SimpleNamespace(stream_interval=interval, queue=queue)
            for name, queue in self.queues.items()
        }
        self.output_processor = SimpleNamespace(
            external_req_ids={name: [f"{name}-1"] for name in self.queues},
            request_states=states,
            process_outputs=self._process,
        )

    def _process(self, outputs: list[Any], timestamp: float, *, weight_version: str) -> str:
        for output in outputs:
            self.seen += 1
            self.queues[output.request_id[0]].put(output.new_token_ids)
        return weight_version

    def step(self, tokens: int, *names: str, finish_reason: str | None = None, logprobs: Any = None) -> None:
        """One step of the engine, as its output handler tells it."""
        outputs = []
        for name in names:
            ids = list(range(self.made[name], self.made[name] + tokens))
            self.made[name] += tokens
            outputs.append(
                SimpleNamespace(
                    request_id=f"{name}-1",
                    new_token_ids=ids,
                    finish_reason=finish_reason,
                    new_logprobs=logprobs,
                )
            )
        assert self.output_processor.process_outputs(outputs, 1.0, weight_version="w") == "w"


class Reader:
    """Reads stream ``a`` as the engine does: what has gathered, then what went vLLM's own way."""

    def __init__(self, vllm: Vllm):
        self._queue = vllm.queues["a"]
        self.ids = self._queue.take()
        tap = OutputBuffers(vllm).tap("a")
        assert tap is not None
        self._tap = tap
        self.rest: asyncio.Future[None] | None = None
        self._task: asyncio.Task[list[int]] | None = None

    async def shut(self) -> None:
        """Rest, unless it does."""
        if self._task is None and not self._tap.passed:
            self.rest = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._tap.gather(self.rest))
            await asyncio.sleep(0)

    async def look(self) -> None:
        """The rest is over."""
        if self._task is not None:
            assert self.rest is not None
            if not self.rest.done():
                self.rest.set_result(None)
            self.ids += await self._task
            self._task = None
        if self._tap.passed:
            self.ids += self._queue.take()


@settings(deadline=None)
@given(st.lists(st.sampled_from(["shut", "look", "step", "logprobs", "other", "both"]), max_size=40))
def test_every_token_is_given_once_and_in_order(moves: list[str]) -> None:
    async def main() -> None:
        vllm = Vllm()
        vllm.step(2, "a", "b")
        reader = Reader(vllm)
        for move in moves:
            if move == "shut":
                await reader.look()
                await reader.shut()
            elif move == "look":
                await reader.look()
            elif move == "logprobs":
                vllm.step(1, "a", logprobs=object())
                await reader.look()  # it was woken: what comes next goes the same way
            else:
                vllm.step(1, *{"step": "a", "other": "b", "both": "ab"}[move])
            assert reader.ids == list(range(len(reader.ids)))
        vllm.step(1, "a", finish_reason="length")
        await reader.look()
        assert reader.ids == list(range(vllm.made["a"]))
        assert vllm.queues["b"].take() == list(range(vllm.made["b"]))

    asyncio.run(main())


def test_vllm_does_nothing_for_a_stream_that_rests() -> None:
    async def main() -> None:
        vllm = Vllm()
        vllm.step(1, "a", "b")
        reader = Reader(vllm)
        await reader.shut()
        seen = vllm.seen
        for _ in range(5):
            vllm.step(1, "a", "b")
        assert vllm.seen - seen == 5  # those of b
        await reader.look()
        assert reader.ids == [0, 1, 2, 3, 4, 5]
        vllm.step(1, "a")
        await reader.look()
        assert reader.ids == [0, 1, 2, 3, 4, 5, 6]
        assert vllm.seen - seen == 6

    asyncio.run(main())


def test_an_end_ends_the_rest_and_comes_behind_what_has_gathered() -> None:
    async def main() -> None:
        vllm = Vllm()
        vllm.step(1, "a")
        reader = Reader(vllm)
        await reader.shut()
        vllm.step(2, "a")
        assert reader.rest is not None
        assert not reader.rest.done()
        vllm.step(1, "a", finish_reason="stop")
        assert reader.rest.done()
        assert vllm.queues["a"].output == [3]
        await reader.look()
        assert reader.ids == [0, 1, 2, 3]

    asyncio.run(main())


def test_nothing_is_kept_of_a_stream_whose_reader_gives_up() -> None:
    async def main() -> None:
        vllm = Vllm()
        taps = OutputBuffers(vllm)
        vllm.step(1, "a")
        tap = taps.tap("a")
        assert tap is not None
        task = asyncio.create_task(tap.gather(asyncio.get_running_loop().create_future()))
        await asyncio.sleep(0)
        vllm.step(2, "a")
        assert tap.ids, "it is shut: what comes gathers in it"
        task.cancel()
        await asyncio.wait([task])
        del tap, task
        gc.collect()
        assert not [one for one in gc.get_objects() if type(one) is OutputBuffer]

    asyncio.run(main())


def test_it_is_left_alone_where_vllm_counts_tokens_or_has_an_interval_and_where_a_request_is_gone() -> None:
    for vllm, name in ((Vllm(log_stats=True), "a"), (Vllm(interval=4), "a"), (Vllm(), "gone")):
        assert OutputBuffers(vllm).tap(name) is None
        vllm.step(3, "a")
        assert vllm.queues["a"].take() == [0, 1, 2]
        assert "gone" not in vllm.output_processor.external_req_ids
