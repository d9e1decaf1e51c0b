"""A stream's tokens gather in vLLM, and none is lost or given twice. vLLM's rule is written down here once more."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_tasks.engines.vllm_tap import Tap


class Request:
    """vLLM's ``RequestState``, as far as an interval goes (0.32 and 0.33)."""

    def __init__(self, interval: int = 1):
        self.stream_interval = interval
        self.sent_tokens_offset = 0
        self.ids: list[int] = []
        self.given: list[int] = []
        self.outputs = 0
        self.queue = SimpleNamespace(put=self._put)
        self.detokenizer = SimpleNamespace(num_output_tokens=lambda: len(self.ids), output_token_ids=self.ids)
        processor = SimpleNamespace(
            external_req_ids=defaultdict(list, {"r": ["r-1"]}), request_states={"r-1": self}
        )
        self.llm = SimpleNamespace(output_processor=processor)

    def make_request_output(self, new: list[int], pooled: None, finish_reason: str | None, stop: None) -> Any:
        if self.stream_interval > 1:
            behind = len(self.ids) - self.sent_tokens_offset
            if not (finish_reason or self.sent_tokens_offset == 0 or behind >= self.stream_interval):
                return None
            new = self.ids[self.sent_tokens_offset :]
            self.sent_tokens_offset = len(self.ids)
        return new

    def _put(self, output: list[int]) -> None:
        self.given += output
        self.outputs += 1

    def step(self, tokens: int, *, finished: bool = False) -> None:
        new = list(range(len(self.ids), len(self.ids) + tokens))
        self.ids += new
        output = self.make_request_output(new, None, "length" if finished else None, None)
        if output is not None:
            self._put(output)


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(["shut", "open"]), st.integers(1, 3)), max_size=40), st.integers(1, 3)
)
def test_every_token_is_given_once(moves: list[Any], first: int) -> None:
    request = Request()
    request.step(first)
    tap = Tap(request.llm, "r")
    for move in moves:
        if isinstance(move, int):
            request.step(move)
        else:
            getattr(tap, move)()
        assert request.given == request.ids[: len(request.given)]
    request.step(1, finished=True)
    assert request.given == request.ids


def test_what_has_gathered_is_given_as_one_output_when_it_opens() -> None:
    request = Request()
    request.step(1)
    tap = Tap(request.llm, "r")
    tap.shut()
    for _ in range(5):
        request.step(1)
    assert request.outputs == 1
    tap.open()
    assert (request.outputs, len(request.given)) == (2, 6)
    request.step(1)
    assert (request.outputs, len(request.given)) == (3, 7)
    tap.shut()
    request.step(2, finished=True)
    tap.open()
    assert (request.outputs, len(request.given)) == (4, 9)


def test_an_interval_of_the_engines_own_is_left_alone_and_so_is_a_request_that_is_gone() -> None:
    request = Request(interval=4)
    for tap in (Tap(request.llm, "r"), Tap(request.llm, "gone")):
        tap.shut()
        tap.open()
    assert request.stream_interval == 4
    assert "gone" not in request.llm.output_processor.external_req_ids
