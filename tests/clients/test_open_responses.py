"""The cases of Open Responses' compliance suite, made anew from their description, over plain HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.support.clients import Served

pytestmark = [pytest.mark.slow, pytest.mark.clients]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
REQUIRED = (
    "id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id",
    "instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p",
    "presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage", "max_output_tokens",
    "max_tool_calls", "store", "background", "service_tier", "metadata", "safety_identifier", "prompt_cache_key",
)  # fmt: skip
"""Fields that a response has, each of them, whatever was asked."""
TOOL: Any = {
    "type": "function", "name": "get_weather", "description": "Get the current weather for a location",
    "parameters": {
        "type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"],
    },
}  # fmt: skip


def user(text: str) -> Any:
    return {"type": "message", "role": "user", "content": text}


def post(served: Served, *items: Any, **more: Any) -> httpx.Response:
    # The mocker ends its texts by a limit alone: a stop is what completes one.
    body = {"model": served.model, "input": list(items), "stop": ["a"], **more}
    head = {"authorization": f"Bearer {served.key}"}
    return httpx.post(f"{served.url}/v1/responses", json=body, headers=head, timeout=60)


def whole(served: Served, *items: Any, **more: Any) -> dict[str, Any]:
    answer = post(served, *items, **more)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return valid(made)


def valid(made: dict[str, Any]) -> dict[str, Any]:
    Response.model_validate(made)
    assert [name for name in REQUIRED if name not in made] == []
    for tool in made["tools"]:
        assert {"type", "name", "description", "parameters", "strict"} <= tool.keys()
    assert made["status"] == "completed"
    assert made["output"]
    return made


def streamed(served: Served, *items: Any, **more: Any) -> list[dict[str, Any]]:
    answer = post(served, *items, stream=True, **more)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        event = EVENT.validate_json(fields["data"]).to_dict()
        assert event["type"] == fields["event"]
        found.append(event)
    valid(found[-1]["response"])
    return found


def test_basic_text(served: Served) -> None:
    made = whole(served, user("Say hello in exactly 3 words."))
    assert made["output"][0]["content"][0]["type"] == "output_text"


def test_streaming(served: Served) -> None:
    kinds = [event["type"] for event in streamed(served, user("Count from 1 to 5."))]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


def test_a_system_prompt(served: Served) -> None:
    system = {"type": "message", "role": "system", "content": "You are a pirate."}
    assert whole(served, system, user("Say hello."))["output"] != whole(served, user("Say hello."))["output"]


def test_a_tool_is_called(served: Served) -> None:
    made = whole(served, user("call get_weather, please"), tools=[TOOL], stop=None)
    assert [item["type"] for item in made["output"]] == ["function_call"]


def test_a_tool_is_called_in_a_stream(served: Served) -> None:
    events = streamed(served, user("call get_weather, please"), tools=[TOOL], stop=None)
    kinds = [event["type"] for event in events]
    assert "response.function_call_arguments.delta" in kinds
    assert "response.function_call_arguments.done" in kinds
    items = [event["item"]["type"] for event in events if event["type"].startswith("response.output_item.")]
    assert items == ["function_call", "function_call"]


def test_an_image_is_refused_by_a_model_of_text(served: Served) -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
    asked = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What?"}, image]}
    answer = post(served, asked)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("input")


def test_several_turns(served: Served) -> None:
    said = {"type": "message", "role": "assistant", "content": "Hello Alice!"}
    made = whole(served, user("My name is Alice."), said, user("What is my name?"))
    assert made["usage"]["input_tokens"] > 20


def test_phases_are_kept(served: Served) -> None:
    """``phase`` of a message of the assistant's, whether it is commentary or the answer."""
    said = {
        "type": "message", "role": "assistant", "phase": "commentary", "id": "msg_1", "status": "completed",
        "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}],
    }  # fmt: skip
    made = whole(served, user("Look."), said, user("And?"))
    head = {"authorization": f"Bearer {served.key}"}
    items = httpx.get(f"{served.url}/v1/responses/{made['id']}/input_items?order=asc", headers=head).json()
    assert items["data"][1]["phase"] == "commentary"


@pytest.mark.parametrize("field", ["context_management"])
def test_compaction_is_refused_by_name(served: Served, field: str) -> None:
    answer = post(served, user("x"), **{field: [{"type": "compaction", "compact_threshold": 1000}]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field
