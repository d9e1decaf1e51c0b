"""The tokens of a stream that rests gather outside of vLLM: none is lost, none is given twice, and in order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_tasks.engines.vllm_tap import Tap, Taps


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
        self.made = {name: 0 for name in self.queues}
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
                    request_id=f"{name}-1", new_token_ids=ids, finish_reason=finish_reason, new_logprobs=logprobs
                )
            )
        assert self.output_processor.process_outputs(outputs, 1.0, weight_version="w") == "w"


class Reader:
    """Takes what a stream gives, as the engine does: first what has gathered, then what went vLLM's way."""

    def __init__(self, vllm: Vllm, tap: Tap, name: str):
        self.ids = vllm.queues[name].take()
        self._queue, self._tap = vllm.queues[name], tap

    def look(self) -> None:
        self.ids += self._tap.open()
        if self._tap.passed:
            self.ids += self._queue.take()


@settings(deadline=None)
@given(st.lists(st.sampled_from(["shut", "look", "step", "logprobs", "other", "both"]), max_size=40))
def test_every_token_is_given_once_and_in_order(moves: list[str]) -> None:
    vllm = Vllm()
    taps = Taps(vllm)
    vllm.step(2, "a", "b")
    tap = taps.tap("a")
    reader = Reader(vllm, tap, "a")
    for move in moves:
        if move == "shut":
            reader.look()
            tap.shut()
        elif move == "look":
            reader.look()
        elif move == "logprobs":
            reader.look()  # a request has them from its start to its end: nothing of it has gathered
            vllm.step(1, "a", logprobs=object())
        else:
            vllm.step(1, *{"step": "a", "other": "b", "both": "ab"}[move])
        assert reader.ids == list(range(len(reader.ids)))
    vllm.step(1, "a", finish_reason="length")
    reader.look()
    assert reader.ids == list(range(vllm.made["a"]))
    assert vllm.queues["b"].take() == list(range(vllm.made["b"]))


def test_vllm_does_nothing_for_a_stream_that_rests() -> None:
    vllm = Vllm()
    taps = Taps(vllm)
    vllm.step(1, "a", "b")
    tap = taps.tap("a")
    assert tap.passed
    vllm.queues["a"].take()
    tap.shut()
    seen = vllm.seen
    for _ in range(5):
        vllm.step(1, "a", "b")
    assert vllm.seen - seen == 5  # those of b
    assert not tap.passed
    assert tap.open() == [1, 2, 3, 4, 5]
    assert tap.open() == []
    vllm.step(1, "a")
    assert tap.passed
    assert vllm.queues["a"].take() == [6]


def test_an_end_goes_vllms_way_behind_what_has_gathered() -> None:
    vllm = Vllm()
    taps = Taps(vllm)
    vllm.step(1, "a")
    vllm.queues["a"].take()
    tap = taps.tap("a")
    tap.shut()
    vllm.step(2, "a")
    vllm.step(1, "a", finish_reason="stop")
    assert tap.open() == [1, 2]
    assert tap.passed
    assert vllm.queues["a"].take() == [3]


def test_nothing_is_kept_of_a_stream_that_was_opened() -> None:
    vllm = Vllm()
    taps = Taps(vllm)
    vllm.step(1, "a")
    tap = taps.tap("a")
    tap.shut()
    tap.open()
    assert taps._shut == {}


def test_it_is_left_alone_where_vllm_counts_tokens_or_has_an_interval_and_where_a_request_is_gone() -> None:
    for vllm, name in ((Vllm(log_stats=True), "a"), (Vllm(interval=4), "a"), (Vllm(), "gone")):
        tap = Taps(vllm).tap(name)
        assert tap.passed
        tap.shut()
        vllm.step(3, "a")
        assert tap.open() == []
        assert vllm.queues["a"].take() == [0, 1, 2]
        assert "gone" not in vllm.output_processor.external_req_ids
