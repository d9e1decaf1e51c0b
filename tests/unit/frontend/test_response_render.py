"""Events of a response, from scripted streams: their order, their numbers, and the object that they make."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from dynamo_tasks.errors import ServerUnavailableError
from dynamo_tasks.frontend.openai.render import Render
from dynamo_tasks.frontend.openai.values import FROM_START, Position
from dynamo_tasks.frontend.responses.collect import collected
from dynamo_tasks.frontend.responses.echo import Echo, Made
from dynamo_tasks.frontend.responses.render import ResponseRenderer
from dynamo_tasks.protocol.events import Event, EventId
from dynamo_tasks.protocol.messages import MessageDelta, ToolCallDelta
from dynamo_tasks.protocol.states import State
from dynamo_tasks.protocol.tokens import TokenDelta
from tests.support.frontend_fakes import EPOCH, USAGE, claim, end, failed, hello, text, tokens

ID = "0123456789abcdef0123456789abcdef"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
OPENING = ["response.created", "response.in_progress"]
ADDED, DONE = "response.output_item.added", "response.output_item.done"
PART, PART_DONE = "response.content_part.added", "response.content_part.done"
TEXT, TEXT_DONE = "response.output_text.delta", "response.output_text.done"
REASONING, REASONING_DONE = "response.reasoning_text.delta", "response.reasoning_text.done"
REFUSAL, REFUSAL_DONE = "response.refusal.delta", "response.refusal.done"
ARGUMENTS, ARGUMENTS_DONE = "response.function_call_arguments.delta", "response.function_call_arguments.done"


def render_of(**echo: Any) -> Render:
    request_id = f"{ID[:8]}-{ID[8:12]}-{ID[12:16]}-{ID[16:20]}-{ID[20:]}"
    return Render("responses", request_id, "tiny", 1_763_790_000, extra=Echo(**echo).encode())


def said(seq: int, message: MessageDelta, **more: Any) -> Event:
    return tokens(seq, TokenDelta(message.content, [seq], 0, message=message, **more))


def called(seq: int, *pieces: ToolCallDelta) -> Event:
    return said(seq, MessageDelta(tool_calls=list(pieces)))


def parsed(raw: bytes) -> list[tuple[str, dict[str, Any]]]:
    """``(id, data)`` of each event; every one is checked by the types of the real client."""
    found = []
    for block in raw.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        data = json.loads(fields["data"])
        assert fields["event"] == data["type"]
        if data["type"] != "response.cancelled":
            EVENT.validate_python(data)
        if "response" in data:
            Response.model_validate(data["response"])
        found.append((fields.get("id", ""), data))
    return found


def shown(events: list[Event], known: Position = FROM_START, after: int = -1, **echo: Any) -> list[Any]:
    renderer = ResponseRenderer(render_of(**echo), known, starting_after=after)
    return parsed(renderer.opening() + renderer.render(events))


def kinds(found: list[Any]) -> list[str]:
    assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
    return [data["type"] for _, data in found]


def test_text() -> None:
    found = shown(hello())
    assert kinds(found) == [
        *OPENING, ADDED, PART, TEXT, TEXT, TEXT, TEXT, TEXT_DONE, PART_DONE, DONE, "response.completed",
    ]  # fmt: skip
    final = found[-1][1]["response"]
    assert final["output"] == [
        {
            "id": f"msg_{ID}_0", "type": "message", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": "Hello, wörld!", "annotations": [], "logprobs": []}],
        }
    ]  # fmt: skip
    assert final["id"] == f"resp_{ID}"
    assert final["usage"] == {
        "input_tokens": 3, "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0}, "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 7,
    }  # fmt: skip


def test_the_last_one_of_several_has_the_id_of_the_event() -> None:
    ids = [event_id for event_id, _ in shown(hello())]
    assert ids[:4] == [""] * 4
    assert ids[4:8] == [f"{EPOCH}-{seq}" for seq in (1, 2, 3, 4)]
    assert ids[8:] == ["", "", "", f"{EPOCH}-5"]


def test_reasoning_then_text() -> None:
    events = [
        claim(), said(1, MessageDelta(reasoning="Let me")), said(2, MessageDelta(reasoning=" think")),
        said(3, MessageDelta(content="\n\n")), said(4, MessageDelta(content="Yes.")),
        end(5, finish_reason="stop", usage=USAGE),
    ]  # fmt: skip
    found = shown(events)
    assert kinds(found) == [
        *OPENING, ADDED, PART, REASONING, REASONING, REASONING_DONE, PART_DONE, DONE,
        ADDED, PART, TEXT, TEXT, TEXT_DONE, PART_DONE, DONE, "response.completed",
    ]  # fmt: skip
    thought, answer = found[-1][1]["response"]["output"]
    assert (thought["id"], thought["content"]) == (
        f"rs_{ID}_0",
        [{"type": "reasoning_text", "text": "Let me think"}],
    )
    assert (answer["id"], answer["content"][0]["text"]) == (f"msg_{ID}_1", "\n\nYes.")
    assert found[-1][1]["response"]["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}


def test_calls_side_by_side_and_no_blank_message_before_them() -> None:
    events = [
        claim(), said(1, MessageDelta(reasoning="Two cities")), said(2, MessageDelta(content="\n")),
        called(3, ToolCallDelta(0, "call_a", "weather", "")), called(4, ToolCallDelta(0, arguments='{"city":')),
        called(5, ToolCallDelta(0, arguments='"Rome"}'), ToolCallDelta(1, "call_b", "weather", '{"city":')),
        called(6, ToolCallDelta(1, arguments='"Oslo"}')), end(7, finish_reason="tool_calls"),
    ]  # fmt: skip
    found = shown(events)
    assert kinds(found) == [
        *OPENING, ADDED, PART, REASONING, REASONING_DONE, PART_DONE, DONE,
        ADDED, ARGUMENTS, ARGUMENTS, ARGUMENTS_DONE, DONE, ADDED, ARGUMENTS, ARGUMENTS, ARGUMENTS_DONE, DONE,
        "response.completed",
    ]  # fmt: skip
    _, first, second = found[-1][1]["response"]["output"]
    assert first == {
        "id": f"fc_{ID}_1", "type": "function_call", "status": "completed", "call_id": "call_a", "name": "weather",
        "arguments": '{"city":"Rome"}',
    }  # fmt: skip
    assert (second["id"], second["call_id"], second["arguments"]) == (
        f"fc_{ID}_2",
        "call_b",
        '{"city":"Oslo"}',
    )


def test_a_refusal_behind_a_text_is_a_part_of_the_same_message() -> None:
    events = [
        claim(), said(1, MessageDelta(content="Well")), said(2, MessageDelta(refusal="I can't")),
        said(3, MessageDelta(refusal=" say.")), end(4, finish_reason="stop"),
    ]  # fmt: skip
    found = shown(events)
    assert kinds(found) == [
        *OPENING, ADDED, PART, TEXT, TEXT_DONE, PART_DONE, PART, REFUSAL, REFUSAL, REFUSAL_DONE, PART_DONE, DONE,
        "response.completed",
    ]  # fmt: skip
    (message,) = found[-1][1]["response"]["output"]
    assert message["content"][1] == {"type": "refusal", "refusal": "I can't say."}
    assert [data["content_index"] for _, data in found if "content_index" in data] == [0] * 4 + [1] * 5


def test_log_probabilities_are_those_of_the_text() -> None:
    entries = [
        {"token": token, "logprob": -0.5, "bytes": list(token.encode()), "text_offset": 0,
         "top_logprobs": [{"token": token, "logprob": -0.5, "bytes": list(token.encode())}]}
        for token in ("think", "</t>", "He", "llo")
    ]  # fmt: skip
    both = TokenDelta("think</t>Hello", [1, 2, 3, 4], 0, None, entries, None, MessageDelta("Hello", "think"))
    events = [claim(), tokens(1, both), end(2, finish_reason="stop")]
    found = shown(events, logprobs=True)
    (part,) = found[-1][1]["response"]["output"][1]["content"]
    assert [entry["token"] for entry in part["logprobs"]] == ["He", "llo"]
    deltas = [data for _, data in found if data["type"] == TEXT]
    assert deltas[0]["logprobs"] == part["logprobs"]
    assert all("text_offset" not in entry for entry in part["logprobs"])
    assert shown(events)[-1][1]["response"]["output"][1]["content"][0]["logprobs"] == []


def test_a_text_that_is_cut_off_is_incomplete() -> None:
    found = shown([claim(), text(1, "Hel", "length"), end(2, finish_reason="length")])
    assert kinds(found)[-3:] == [PART_DONE, DONE, "response.incomplete"]
    final = found[-1][1]["response"]
    assert final["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (final["status"], final["output"][0]["status"]) == ("incomplete", "incomplete")


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    found = shown([claim(), end(1, finish_reason="stop")])
    assert kinds(found) == [*OPENING, ADDED, PART, TEXT_DONE, PART_DONE, DONE, "response.completed"]


def test_only_blanks_are_the_answer_where_nothing_else_is() -> None:
    found = shown([claim(), said(1, MessageDelta(content="\n")), end(2, finish_reason="length")])
    assert found[-1][1]["response"]["output"][0]["content"][0]["text"] == "\n"


def test_failed() -> None:
    found = shown([claim(), text(1, "Hel"), failed(2, "engine_error", "out of luck")])
    assert kinds(found)[-4:] == [TEXT_DONE, PART_DONE, DONE, "response.failed"]
    final = found[-1][1]["response"]
    assert final["error"] == {"code": "server_error", "message": "out of luck"}
    assert final["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(
    ("state", "status"), [(State.CANCELLED, "cancelled"), (State.EXPIRED, "failed"), (State.FAILED, "failed")]
)
def test_an_end_before_any_attempt(state: State, status: str) -> None:
    found = shown([end(0, state, finish_reason="x", previous="0-0")], background=True)
    assert kinds(found) == ["response.created", "response.queued", f"response.{status}"]
    assert found[-1][1]["response"]["status"] == status


def test_in_the_background_it_is_queued_first() -> None:
    found = shown(hello(), background=True)
    assert kinds(found)[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert [data["response"]["status"] for _, data in found[:3]] == ["queued", "queued", "in_progress"]
    assert found[2][0] == f"{EPOCH}-0"


def test_another_attempt_goes_on_with_ids_and_numbers() -> None:
    more = EPOCH + 1000
    taken_over = [
        claim(), text(1, "Hel"), claim(more, EventId(EPOCH, 1), 2),
        tokens(1, TokenDelta("lo", [2], 0), epoch=more), end(2, finish_reason="stop", usage=USAGE),
    ]  # fmt: skip
    found = shown(taken_over)
    assert kinds(found) == [
        *OPENING,
        ADDED,
        PART,
        TEXT,
        TEXT,
        TEXT_DONE,
        PART_DONE,
        DONE,
        "response.completed",
    ]
    assert found[-1][1]["response"]["output"][0]["content"][0]["text"] == "Hello"
    raw = ResponseRenderer(render_of()).render(taken_over)
    assert b"\n\n: attempt 2\nid: " in raw


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_the_same_bytes_in_any_batches(batch: int) -> None:
    events = hello()
    renderer = ResponseRenderer(render_of())
    parts = [renderer.render(events[at : at + batch]) for at in range(0, len(events), batch)]
    assert b"".join(parts) == ResponseRenderer(render_of()).render(events)


def test_a_client_gets_what_it_has_not() -> None:
    whole = shown(hello())
    for known in range(len(whole)):
        assert shown(hello(), after=known) == whole[known + 1 :]
    for place, (event_id, _) in enumerate(whole):
        if event_id:
            known_events = Position(EventId.parse(event_id))
            assert shown(hello(), known_events) == whole[place + 1 :]


def test_the_object_is_the_one_that_the_stream_ends_with() -> None:
    made = collected(render_of(), hello())
    assert made is not None
    assert made.shown(render_of(), Echo()) == shown(hello())[-1][1]["response"]
    assert Made.decode(made.encode()) == made
    assert collected(render_of(), hello()[:-1]) is None


def test_a_stream_that_cannot_be_read_ends_with_an_error() -> None:
    renderer = ResponseRenderer(render_of())
    renderer.render(hello()[:2])
    ((_, data),) = parsed(renderer.close(ServerUnavailableError("no Redis")))
    assert (data["type"], data["code"], data["sequence_number"]) == ("error", "server_unavailable", 5)
    assert renderer.close(None) == b""


def test_completed_at_is_the_time_of_the_end() -> None:
    done = [claim(), end(1, finish_reason="stop", at=1_763_790_002)]
    assert shown(done)[-1][1]["response"]["completed_at"] == 1_763_790_002
