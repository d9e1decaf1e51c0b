"""Events of a log as server-sent events."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_tasks.errors import InvalidEventIdError
from dynamo_tasks.frontend.openai.logprobs import logprobs_of
from dynamo_tasks.frontend.openai.render import CompletionRenderer, Render
from dynamo_tasks.frontend.openai.values import Position, ValueRenderer, parse_position
from dynamo_tasks.protocol.events import Event, EventId
from dynamo_tasks.protocol.states import State
from dynamo_tasks.protocol.tokens import TokenDelta
from tests.support.frontend_fakes import EPOCH, USAGE, claim, end, failed, hello, sse, text, tokens, values

CHAT = Render("chat", "r1", 'ti"ny', 1234)
COMPLETION = Render("completions", "r1", "tiny", 1234)


def rendered(render: Render, *events: Event) -> list[tuple[str | None, Any]]:
    return sse(CompletionRenderer(render).render(events))


def test_a_render_crosses_processes() -> None:
    render = Render("chat", "r1", "tiny", 1234, include_usage=True, n=3)
    assert Render.decode(render.encode(), "r1") == render


def test_a_render_of_a_newer_peer_can_be_read() -> None:
    newer = msgspec.msgpack.encode(["chat", "m", 1, False, 1, b"x", "", "red"])
    assert Render.decode(newer, "a") == Render("chat", "a", "m", 1, extra=b"x")


def test_a_render_takes_no_byte_for_what_an_api_does_not_need() -> None:
    render = Render("chat", "a", "m", 1)
    assert len(msgspec.structs.replace(render, extra=b"x").encode()) == len(render.encode()) + 3
    with_tier = msgspec.structs.replace(render, tier="flex")
    assert Render.decode(with_tier.encode(), "a") == with_tier


def test_a_render_of_an_older_peer_can_be_read() -> None:
    older = msgspec.msgpack.encode(["chat", "m", 1, False, 1])
    assert Render.decode(older, "a") == Render("chat", "a", "m", 1)


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_every_chunk_says_the_tier_that_was_asked_for(api: str) -> None:
    found = rendered(Render(api, "r1", "m", 1, include_usage=True, tier="flex"), *hello())
    chunks = [chunk for _, chunk in found if chunk != "[DONE]"]
    assert [chunk["service_tier"] for chunk in chunks] == ["flex"] * len(chunks)
    assert not any("service_tier" in chunk for _, chunk in rendered(CHAT, *hello()))


def test_a_chat_stream_is_what_openai_clients_expect() -> None:
    def chunk(delta: object, finish: object = None) -> dict[str, object]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {
            "id": "chatcmpl-r1", "object": "chat.completion.chunk", "created": 1234, "model": 'ti"ny',
            "choices": [choice],
        }  # fmt: skip

    assert rendered(CHAT, *hello()) == [
        (f"{EPOCH}-0", chunk({"role": "assistant", "content": ""})),
        (f"{EPOCH}-1", chunk({"content": "Hel"})),
        (f"{EPOCH}-2", chunk({"content": "lo, "})),
        (f"{EPOCH}-3", chunk({"content": "wörld"})),
        (f"{EPOCH}-4", chunk({"content": "!"}, "stop")),
        (f"{EPOCH}-5", "[DONE]"),
    ]


def test_a_completion_stream_has_no_role() -> None:
    found = rendered(COMPLETION, *hello())
    assert [event for event, _ in found] == [f"{EPOCH}-{seq}" for seq in range(1, 6)]
    assert found[3][1] == {
        "id": "cmpl-r1", "object": "text_completion", "created": 1234, "model": "tiny",
        "choices": [{"index": 0, "text": "!", "logprobs": None, "finish_reason": "stop"}],
    }  # fmt: skip


def test_the_id_comes_before_the_data() -> None:
    body = CompletionRenderer(CHAT).render([text(1, "a")])
    assert body.startswith(b"id: %d-1\ndata: {" % EPOCH)
    assert body.endswith(b"}\n\n")


def test_usage_is_the_last_chunk_and_null_before() -> None:
    found = rendered(msgspec.structs.replace(CHAT, include_usage=True), *hello())
    assert all(chunk["usage"] is None for _, chunk in found[:-2])
    event, chunk = found[-2]
    assert event == f"{EPOCH}-5"
    assert chunk["choices"] == []
    assert chunk["usage"] == {
        "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 1},
    }  # fmt: skip
    assert found[-1][1] == "[DONE]"


def test_several_choices_of_one_event_share_a_chunk() -> None:
    deltas = [TokenDelta("a", [1], 0), TokenDelta("b", [2, 3], 1, "length")]
    renderer = CompletionRenderer(msgspec.structs.replace(CHAT, n=2))
    role, chunk = sse(renderer.render([claim(), tokens(1, *deltas)]))
    assert [choice["index"] for choice in role[1]["choices"]] == [0, 1]
    assert [(c["index"], c["delta"]["content"], c["finish_reason"]) for c in chunk[1]["choices"]] == [
        (0, "a", None), (1, "b", "length"),
    ]  # fmt: skip
    assert renderer.tokens == 3


def test_a_later_attempt_is_only_a_comment() -> None:
    later = claim(EPOCH + 1, EventId(EPOCH, 1), attempt=2)
    body = CompletionRenderer(CHAT).render([claim(), text(1, "a"), later])
    assert body.endswith(b": attempt 2\n")
    assert len(sse(body)) == 2


def test_a_failure_is_shown_in_the_stream() -> None:
    renderer = CompletionRenderer(CHAT)
    found = sse(renderer.render([text(1, "a"), failed(2, "worker_lost", "lost its worker 3 times")]))
    error = {
        "message": "lost its worker 3 times", "type": "server_error", "param": None, "code": "worker_lost",
    }  # fmt: skip
    assert found[1] == (f"{EPOCH}-2", {"error": error})
    assert found[2][1] == "[DONE]"
    assert renderer.ended
    assert renderer.error is not None


@pytest.mark.parametrize(("state", "code"), [(State.CANCELLED, "cancelled"), (State.EXPIRED, "expired")])
def test_an_end_without_success_is_an_error_even_without_words(state: State, code: str) -> None:
    assert rendered(CHAT, end(1, state))[0][1]["error"]["code"] == code


def test_text_without_a_finish_reason_gets_one_from_the_end() -> None:
    found = rendered(CHAT, claim(), values(1, "a", {"text": "b"}), end(2, finish_reason="length"))
    assert [c["delta"] for c in found[1][1]["choices"]] == [{"content": "ab"}]
    assert found[2][1]["choices"][0]["finish_reason"] == "length"


def test_logprobs_are_passed_on() -> None:
    delta = TokenDelta("a", [1], logprobs=[{"token": "a", "logprob": -0.5}])
    choice = rendered(CHAT, tokens(1, delta))[0][1]["choices"][0]
    assert choice["logprobs"] == {"content": [{"token": "a", "logprob": -0.5}], "refusal": None}


@given(st.lists(st.text(), max_size=8), st.integers(0, 9), st.booleans(), st.sampled_from([CHAT, COMPLETION]))
def test_two_frontends_render_what_one_would(parts: list[str], cut: int, usage: bool, render: Render) -> None:
    render = msgspec.structs.replace(render, include_usage=usage)
    events = [claim(), *(text(seq, part) for seq, part in enumerate(parts, 1))]
    events += [text(len(parts) + 1, "", "stop"), end(len(parts) + 2, usage=USAGE)]
    first, second = CompletionRenderer(render), CompletionRenderer(render)
    whole = CompletionRenderer(render).render(events)
    assert first.render(events[:cut]) + second.render(events[cut:]) == whole
    found = [data for _, data in sse(whole) if data != "[DONE]" and data["choices"]]
    key = "delta" if render.api == "chat" else None
    assert "".join(
        (c["choices"][0][key]["content"] if key else c["choices"][0]["text"]) for c in found
    ) == "".join(parts)


def test_values_are_json_each() -> None:
    body = ValueRenderer().render([claim(), values(1, {"a": 1}), values(2, "x", None, [1]), end(3)])
    assert sse(body) == [
        (f"{EPOCH}-1", {"a": 1}),
        (f"{EPOCH}-2.1", "x"),
        (f"{EPOCH}-2.2", None),
        (f"{EPOCH}-2", [1]),
        (f"{EPOCH}-3", "[DONE]"),
    ]


def test_a_reader_that_was_cut_off_between_two_values_goes_on_there() -> None:
    position = parse_position(f"{EPOCH}-2.1")
    assert position == Position(EventId(EPOCH, 1), 1)
    body = ValueRenderer(position.skip).render([values(2, "x", "y"), values(3, "z"), end(4)])
    assert [data for _, data in sse(body)] == ["y", "z", "[DONE]"]


def test_a_return_value_is_a_value() -> None:
    assert sse(ValueRenderer().render([claim(), end(1, values=[42])])) == [
        (f"{EPOCH}-1", 42),
        (None, "[DONE]"),
    ]


def test_tokens_without_a_render_are_shown_as_chunks() -> None:
    ((_, chunk),) = sse(ValueRenderer().render([text(1, "a")]))
    assert chunk == {"text": "a", "token_ids": [1], "index": 0, "finish_reason": None}


def test_values_show_failures_and_attempts() -> None:
    later = claim(EPOCH, EventId(EPOCH - 1, 1), attempt=3)
    renderer = ValueRenderer()
    body = renderer.render([later, failed(1, "endpoint_error", "ValueError: no")])
    assert body.startswith(b": attempt 3\n")
    assert sse(body)[0][1]["error"]["code"] == "endpoint_error"
    assert renderer.error is not None


@pytest.mark.parametrize("bad", ["1", "a-b", "1-2-3", "-1-2", "1-2.", "1-2.x", "1-0.1", "1.5", "１-２"])
def test_a_position_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(InvalidEventIdError):
        parse_position(bad)


@pytest.mark.parametrize("start", [None, "", "0-0"])
def test_no_position_is_the_start(start: str | None) -> None:
    assert parse_position(start) == Position()


def test_logprobs_of_completions_have_their_own_shape() -> None:
    top = [{"token": "b", "logprob": -0.1, "bytes": [98]}]
    entry = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": top, "text_offset": 7}
    assert logprobs_of("completions", [entry]) == {
        "tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -0.1, "a": -0.5}], "text_offset": [7],
    }  # fmt: skip
    assert "text_offset" not in logprobs_of("chat", [entry])["content"][0]
