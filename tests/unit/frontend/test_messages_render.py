"""Events of a stream as those of Anthropic's API: the same from any frontend, from any place on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dynamo_tasks.errors import InvalidEventIdError, ServerUnavailableError
from dynamo_tasks.frontend.messages.collect import MessageCollector
from dynamo_tasks.frontend.messages.content import Shown
from dynamo_tasks.frontend.messages.render import MessageRenderer
from dynamo_tasks.frontend.openai.render import Render
from dynamo_tasks.frontend.openai.values import parse_position
from dynamo_tasks.protocol.events import End, Event, EventId
from dynamo_tasks.protocol.messages import MessageDelta, ToolCallDelta
from dynamo_tasks.protocol.tokens import TokenDelta
from tests.support.frontend_fakes import EPOCH, USAGE, claim, end, failed, hello, text, tokens, values

ID = "3f6c-a1"


def render(**shown: int) -> Render:
    return Render("messages", ID, "tiny", 1234, extra=Shown(**shown).encode())


def said(seq: int, finish: str | None = None, **fields: Any) -> Event:
    return tokens(seq, TokenDelta("raw", [seq], 0, finish, message=MessageDelta(**fields)))


def call(index: int, arguments: str = "", **first: str) -> ToolCallDelta:
    return ToolCallDelta(index, arguments=arguments, **first)


def parsed(body: bytes) -> list[tuple[str, str, dict[str, Any]]]:
    """Id, kind and data of SSE events; comments are left out."""
    found = []
    for part in body.decode().split("\n\n"):
        lines = [line for line in part.split("\n") if line and not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)
        if fields:
            found.append((fields.get("id", ""), fields["event"], json.loads(fields["data"])))
    return found


def shown(events: list[Event], after: str = "", **more: int) -> list[tuple[str, str, dict[str, Any]]]:
    return parsed(MessageRenderer(render(**more), parse_position(after)).render(events))


def collected(events: list[Event], **more: int) -> dict[str, Any]:
    collector = MessageCollector(render(**more))
    for event in events[1:-1]:
        collector.take(event)
    return collector.body(End.decode(events[-1].data))


def test_a_part_that_an_event_has_not_is_told() -> None:
    """Before, whatever came under that event was left out without a word."""
    assert [one[0] for one in shown(hello(), f"{EPOCH}-5.2")] == [f"{EPOCH}-5"]
    for part in (3, 99):
        with pytest.raises(InvalidEventIdError, match="has 3 parts"):
            shown(hello(), f"{EPOCH}-5.{part}")


AGENT = [
    claim(),
    said(1, reasoning="Let me "),
    said(2, reasoning="see."),
    said(3, content="\n\n"),
    said(4, content="I look."),
    said(5, content="\n", tool_calls=[call(0, id="c0", name="weather")]),
    said(6, tool_calls=[call(0, '{"city":')]),
    said(7, tool_calls=[call(0, ' "Oslo"}'), call(1, "{}", id="c1", name="time")]),
    said(8, "tool_calls"),
    end(9, finish_reason="tool_calls", usage=USAGE),
]


def test_a_stream_of_text() -> None:
    def delta(piece: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}

    found = shown(hello(), input_tokens=3)
    assert [(event, kind) for event, kind, _ in found] == [
        (f"{EPOCH}-0", "message_start"), ("", "ping"),
        (f"{EPOCH}-1.1", "content_block_start"), (f"{EPOCH}-1", "content_block_delta"),
        *((f"{EPOCH}-{seq}", "content_block_delta") for seq in (2, 3, 4)),
        (f"{EPOCH}-5.1", "content_block_stop"), (f"{EPOCH}-5.2", "message_delta"), (f"{EPOCH}-5", "message_stop"),
    ]  # fmt: skip
    assert [data["type"] for _, _, data in found] == [kind for _, kind, _ in found]
    assert found[0][2]["message"] == {
        "id": "msg_3f6ca1", "type": "message", "role": "assistant", "model": "tiny", "content": [],
        "stop_reason": None, "stop_sequence": None,
        "usage": {
            "input_tokens": 3, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0
        },
    }  # fmt: skip
    assert [data for _, kind, data in found if kind == "content_block_delta"] == [
        delta(piece) for piece in ("Hel", "lo, ", "wörld", "!")
    ]
    assert found[-2][2] == {
        "type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {
            "input_tokens": 2, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 1, "output_tokens": 4
        },
    }  # fmt: skip


def test_thoughts_text_and_calls_are_blocks() -> None:
    message = collected(AGENT)
    assert message["content"][0].pop("signature")
    assert message["content"] == [
        {"type": "thinking", "thinking": "Let me see."},
        {"type": "text", "text": "\n\nI look.\n"},
        {"type": "tool_use", "id": "c0", "name": "weather", "input": {"city": "Oslo"}},
        {"type": "tool_use", "id": "c1", "name": "time", "input": {}},
    ]
    assert message["stop_reason"] == "tool_use"


def test_a_stream_says_what_the_whole_message_says() -> None:
    blocks: list[dict[str, Any]] = []
    opened: list[int] = []
    for _, kind, data in shown(AGENT):
        if kind == "content_block_start":
            assert data["index"] == len(blocks)
            assert not opened
            opened.append(data["index"])
            blocks.append({**data["content_block"], "json": ""})
        elif kind == "content_block_stop":
            opened.remove(data["index"])
        elif kind == "content_block_delta":
            block, delta = blocks[data["index"]], data["delta"]
            name = {"input_json_delta": "json"}.get(delta["type"], delta["type"].removesuffix("_delta"))
            block[name] += delta["partial_json" if name == "json" else name]
    for block in blocks:
        whole = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(whole or "{}")
    assert blocks == collected(AGENT)["content"]
    assert not opened


def test_line_breaks_between_thoughts_and_calls_are_no_text() -> None:
    events = [
        claim(), said(1, reasoning="Hm."), said(2, content="\n\n"),
        said(3, "tool_calls", tool_calls=[call(0, "{}", id="c", name="f")]), end(4),
    ]  # fmt: skip
    assert [block["type"] for block in collected(events)["content"]] == ["thinking", "tool_use"]
    assert [
        block["type"] for block in collected([claim(), said(1, "stop", content="\n"), end(2)])["content"]
    ] == ["text"]


def test_thinking_is_shown_as_asked() -> None:
    omitted = collected(AGENT, thinking=1)["content"][0]
    assert (omitted["type"], omitted["thinking"]) == ("thinking", "")
    assert omitted["signature"] == collected(AGENT)["content"][0]["signature"]
    assert "thinking_delta" not in str(shown(AGENT, thinking=1))
    assert collected(AGENT, thinking=2)["content"][0]["type"] == "text"


@pytest.mark.parametrize("events", [hello(), AGENT], ids=["text", "agent"])
def test_whoever_comes_again_gets_the_rest_and_nothing_twice(events: list[Event]) -> None:
    whole = [one for one in shown(events, input_tokens=3) if one[1] != "ping"]
    for number, (event, _, _) in enumerate(whole):
        assert [one for one in shown(events, event, input_tokens=3) if one[1] != "ping"] == whole[
            number + 1 :
        ]


def test_whatever_the_batches_it_is_the_same() -> None:
    renderer = MessageRenderer(render())
    assert b"".join(renderer.render([event]) for event in AGENT) == MessageRenderer(render()).render(AGENT)


def test_another_attempt_is_a_comment() -> None:
    again = claim(EPOCH + 1, EventId(EPOCH, 1), 2)
    events = [claim(), text(1, "a"), again, tokens(1, TokenDelta("b", [2]), epoch=EPOCH + 1)]
    body = MessageRenderer(render()).render(events)
    assert body.count(b": attempt 2\n") == 1
    assert [kind for _, kind, _ in parsed(body)].count("message_start") == 1
    assert b"attempt" not in MessageRenderer(render(), parse_position(f"{EPOCH + 1}-0")).render(events)


@pytest.mark.parametrize(
    ("finish", "stop", "reason"),
    [
        ("length", None, ("max_tokens", None)), ("stop", None, ("end_turn", None)),
        ("stop", "END", ("stop_sequence", "END")), (None, None, ("end_turn", None)),
    ],
)  # fmt: skip
def test_why_it_ended(finish: str | None, stop: str | None, reason: tuple[str, str | None]) -> None:
    events = [claim(), tokens(1, TokenDelta("a", [1], 0, finish, stop=stop)), end(2)]
    message = collected(events)
    assert (message["stop_reason"], message["stop_sequence"]) == reason
    delta = shown(events)[-2][2]["delta"]
    assert (delta["stop_reason"], delta["stop_sequence"]) == reason


def test_an_error_ends_it_without_a_stop() -> None:
    *_, (event, kind, data) = shown([claim(), text(1, "a"), failed(2, "deadline_exceeded", "too late")])
    assert (event, kind) == (f"{EPOCH}-2", "error")
    assert data == {
        "type": "error", "request_id": ID,
        "error": {"type": "timeout_error", "message": "too late", "code": "deadline_exceeded", "param": None},
    }  # fmt: skip


def test_a_stream_that_cannot_be_read_on() -> None:
    renderer = MessageRenderer(render())
    renderer.render([claim(), text(1, "a")])
    ((_, kind, data),) = parsed(renderer.close(ServerUnavailableError("gone")))
    assert (kind, data["error"]["type"]) == ("error", "overloaded_error")
    assert renderer.close(None) == b""


def test_an_endpoint_that_yields_or_returns_something_else() -> None:
    events = [claim(), values(1, "a", {"text": "b"}), end(2, values=["c"])]
    assert collected(events)["content"] == [{"type": "text", "text": "abc"}]
    assert (
        "".join(data["delta"]["text"] for _, kind, data in shown(events) if kind == "content_block_delta")
        == "abc"
    )


def test_a_call_that_was_cut_off_is_kept_as_it_is() -> None:
    events = [claim(), said(1, "length", tool_calls=[call(0, '{"a": ', id="c", name="f")]), end(2)]
    message = collected(events)
    assert message["content"][0]["input"] == {"INVALID_JSON": '{"a": '}
    assert message["stop_reason"] == "max_tokens"
