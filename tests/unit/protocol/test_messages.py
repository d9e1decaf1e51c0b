"""Messages in pieces: merged, on the wire, in the shapes of OpenAI's chat API."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from dynamo_tasks.frontend.openai.collect import CompletionCollector
from dynamo_tasks.frontend.openai.render import CompletionRenderer, Render
from dynamo_tasks.protocol.events import End, Event, EventId
from dynamo_tasks.protocol.messages import MessageDelta, ToolCallDelta, merge_messages
from dynamo_tasks.protocol.states import State
from dynamo_tasks.protocol.tokens import (
    CompletionAggregate,
    TokenDelta,
    decode_deltas,
    encode_deltas,
    merge_delta,
)

PIECES = [
    MessageDelta(reasoning="hm"),
    MessageDelta(reasoning="m", content="I "),
    MessageDelta(content="look.", tool_calls=[ToolCallDelta(0, "a", "sum", '{"x"')]),
    MessageDelta(tool_calls=[ToolCallDelta(0, arguments=":1}"), ToolCallDelta(1, "b", "now")]),
    MessageDelta(),
    MessageDelta(tool_calls=[ToolCallDelta(1, arguments="{}")]),
]
WHOLE = MessageDelta(
    "I look.", "hmm", [ToolCallDelta(0, "a", "sum", '{"x":1}'), ToolCallDelta(1, "b", "now", "{}")]
)
RENDER = Render("chat", "r", "m", 1)


def _deltas() -> list[TokenDelta]:
    return [TokenDelta(str(number), [number], message=piece) for number, piece in enumerate(PIECES)]


def test_pieces_make_the_whole_and_stay_as_they_are() -> None:
    before = msgspec.json.encode(PIECES)
    found: MessageDelta | None = None
    for piece in PIECES:
        found = merge_messages(found, piece)
    assert found == WHOLE
    assert msgspec.json.encode(PIECES) == before
    assert merge_messages(None, None) is None


def test_tokens_that_gather_keep_their_messages() -> None:
    pending: list[TokenDelta] = []
    for delta in _deltas():
        merge_delta(pending, delta)
    (found,) = decode_deltas(encode_deltas(pending))
    assert (found.text, found.message) == ("012345", WHOLE)
    assert TokenDelta.from_dict(found.as_dict()) == found
    whole = CompletionAggregate()
    whole.add(found.as_dict())
    assert whole.result()["message"] == msgspec.to_builtins(WHOLE)


def _events() -> list[Event]:
    return [Event(EventId(5, n), "t", encode_deltas([delta])) for n, delta in enumerate(_deltas())]


def test_a_stream_of_chunks() -> None:
    body = CompletionRenderer(RENDER).render(_events()).decode()
    chunks = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]
    deltas: list[Any] = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"reasoning_content": "hm", "reasoning": "hm"},
        {"reasoning_content": "m", "reasoning": "m", "content": "I "},
        {"content": "look.", "tool_calls": [
            {"index": 0, "id": "a", "type": "function", "function": {"name": "sum", "arguments": '{"x"'}}]},
        {"tool_calls": [
            {"index": 0, "function": {"arguments": ":1}"}},
            {"index": 1, "id": "b", "type": "function", "function": {"name": "now", "arguments": ""}}]},
        {},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
    ]  # fmt: skip


def test_the_whole_message() -> None:
    collector = CompletionCollector(RENDER)
    for event in _events():
        collector.take(event)
    (choice,) = collector.body(End(State.SUCCEEDED, "tool_calls"))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant", "content": "I look.", "refusal": None, "reasoning_content": "hmm", "reasoning": "hmm",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "sum", "arguments": '{"x":1}'}},
            {"id": "b", "type": "function", "function": {"name": "now", "arguments": "{}"}},
        ],
    }  # fmt: skip


def test_content_is_null_where_only_a_call_was_made() -> None:
    calls = [ToolCallDelta(0, "a", "now", "{}")]
    assert MessageDelta("\n\n", "", calls).as_message()["content"] is None
    assert MessageDelta("").as_message()["content"] == ""
