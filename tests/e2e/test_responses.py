"""The Responses API over HTTP, with the real ``openai`` client, from two frontends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.e2e.conftest import Stack
from tests.support.processes import Frontend, Worker, together, until
from tests.support.server import RedisServer

ASK = "tell me a story"
HEAD = {"authorization": "Bearer mine"}


@pytest.fixture(scope="module")
def stack(redis_server: RedisServer) -> Iterator[Stack]:
    url, name = redis_server.url, "test-responses"
    env = {"DYNAMO_NAMESPACE": name}
    settings = ("Worker.engine=mocker", "Worker.token_delay_ms=5", "Worker.max_model_len=4096")
    keys = {**env, "DYNAMO_API_KEYS": "mine,another"}
    with together(
        Worker(url, settings=settings, env=env), Frontend(url, env=keys), Frontend(url, env=keys)
    ) as (worker, one, two):
        yield Stack(redis_server, name, worker, one, two)


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with _client(stack.one.base_url) as made:
        yield made


@pytest.fixture
def other(stack: Stack) -> Iterator[openai.OpenAI]:
    """A client of the other frontend."""
    with _client(stack.two.base_url) as made:
        yield made


def _client(url: str, key: str = "mine") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def _ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.responses.create(**{"model": "mocker", "input": ASK, "max_output_tokens": 12} | more)


def test_a_response_is_kept_and_any_frontend_has_it(client: openai.OpenAI, other: openai.OpenAI) -> None:
    made = _ask(client, instructions="be brief", metadata={"a": "b"})
    assert (made.status, made.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert made.output_text
    assert made.usage.output_tokens == 12
    assert made.usage.total_tokens == made.usage.input_tokens + 12
    assert (made.instructions, made.metadata) == ("be brief", {"a": "b"})
    found = other.responses.retrieve(made.id)
    assert found.to_dict() == made.to_dict()
    items = list(other.responses.input_items.list(made.id))
    assert [item.content[0].text for item in items] == [ASK]
    other.responses.delete(made.id)
    for one in (client, other):
        with pytest.raises(openai.NotFoundError):
            one.responses.retrieve(made.id)


def test_streamed_is_the_same(client: openai.OpenAI) -> None:
    events = list(_ask(client, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete",
    ]  # fmt: skip
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    text = "".join(event.delta for event in events[4:-4])
    final = events[-1].response
    assert final.output_text == text == _ask(client).output_text
    assert client.responses.retrieve(final.id).to_dict() == final.to_dict()


def test_in_the_background(client: openai.OpenAI, other: openai.OpenAI) -> None:
    made = _ask(client, background=True)
    assert (made.status, made.output) == ("queued", [])
    done = until(lambda: _ended(other, made.id))
    assert done.status == "incomplete"
    first = list(client.responses.retrieve(made.id, stream=True))
    assert [event.type for event in first[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    rest = list(other.responses.retrieve(made.id, stream=True, starting_after=first[5].sequence_number))
    assert [event.to_dict() for event in rest] == [event.to_dict() for event in first[6:]]


def _ended(client: openai.OpenAI, name: str) -> Any:
    found = client.responses.retrieve(name)
    return None if found.status in ("queued", "in_progress") else found


def test_one_in_the_background_is_cancelled_and_another_one_is_not(
    client: openai.OpenAI, other: openai.OpenAI
) -> None:
    made = _ask(client, background=True, max_output_tokens=3000)
    assert other.responses.cancel(made.id).status == "cancelled"
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"
    plain = _ask(client)
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(plain.id)
    with pytest.raises(openai.BadRequestError, match="background"):
        list(client.responses.retrieve(plain.id, stream=True))


def test_one_that_follows_another_knows_it_also_when_that_is_gone(
    client: openai.OpenAI, other: openai.OpenAI
) -> None:
    first = _ask(client)
    second = _ask(other, input="go on", previous_response_id=first.id)
    client.responses.delete(first.id)
    third = _ask(client, input="and then", previous_response_id=second.id)
    items = list(client.responses.input_items.list(third.id, order="asc", limit=2))
    texts = [item.content[0].text for item in items]
    assert texts == [ASK, first.output_text, "go on", second.output_text, "and then"]
    assert third.usage.input_tokens > second.usage.input_tokens > first.usage.input_tokens
    with pytest.raises(openai.BadRequestError) as caught:
        _ask(client, previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"


def test_input_tokens_are_those_of_the_request(client: openai.OpenAI) -> None:
    made = _ask(client, instructions="be brief", tools=[TOOL])
    counted = client.responses.input_tokens.count(
        model="mocker", input=ASK, instructions="be brief", tools=[TOOL]
    )
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", made.usage.input_tokens)
    following = client.responses.input_tokens.count(model="mocker", input="x", previous_response_id=made.id)
    assert following.input_tokens > 0


def test_one_outlives_its_stream(stack: Stack, client: openai.OpenAI, other: openai.OpenAI) -> None:
    made = _ask(client)
    raw = made.id.removeprefix("resp_")
    key = f"dt:{stack.namespace}:log:{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}"
    until(lambda: 0 < int(stack.server.command("TTL", key)[1:]) <= 60)
    assert stack.server.command("DEL", key) == b":1\r\n"
    assert other.responses.retrieve(made.id).to_dict() == made.to_dict()
    assert _ask(other, input="go on", previous_response_id=made.id).output_text


def test_what_is_not_stored_is_not_found(client: openai.OpenAI) -> None:
    made = _ask(client, store=False)
    assert made.output_text
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


TOOL: Any = {
    "type": "function", "name": "weather", "strict": True,
    "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
        "additionalProperties": False,
    },
}  # fmt: skip


class Forecast(BaseModel):
    city: str
    kind: Literal["sun", "rain"]


def test_a_loop_of_tools(client: openai.OpenAI) -> None:
    ask = 'compare weather({"city": "Oslo"}) and weather({"city": "Rome"})'
    with client.responses.stream(model="mocker", input=ask, tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        called = stream.get_final_response()
    assert kinds.count("response.function_call_arguments.done") == 2
    calls = [item for item in called.output if item.type == "function_call"]
    assert [json.loads(call.arguments) for call in calls] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert called.status == "completed"
    assert called.completed_at >= called.created_at
    results: list[Any] = [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"{degrees} degrees"}
        for call, degrees in zip(calls, (9, 25), strict=True)
    ]
    done = client.responses.create(
        model="mocker", input=results, tools=[TOOL], previous_response_id=called.id
    )
    assert done.output_text == "Result: 9 degrees\n25 degrees"
    one = client.responses.create(
        model="mocker", input=ask, tools=[TOOL], parallel_tool_calls=False,
        tool_choice={"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
    )  # fmt: skip
    assert [item.type for item in one.output] == ["function_call"]


def test_an_answer_by_a_schema(client: openai.OpenAI) -> None:
    made = client.responses.parse(model="mocker", input="Oslo?", text_format=Forecast)
    assert isinstance(made.output_parsed, Forecast)
    assert made.text.format.type == "json_schema"


def test_reasoning_comes_first_and_may_be_sent_back(client: openai.OpenAI) -> None:
    made = _ask(
        client, reasoning={"effort": "low"}, include=["reasoning.encrypted_content"], max_output_tokens=200
    )
    thought, answer = made.output
    assert (thought.type, answer.type) == ("reasoning", "message")
    assert thought.content[0].text
    assert 0 < made.usage.output_tokens_details.reasoning_tokens < 200
    again = _ask(client, input=[*made.output, {"role": "user", "content": "go on"}])
    assert again.output_text
    streamed = list(_ask(client, reasoning={"effort": "low"}, stream=True))
    assert "response.reasoning_text.delta" in [event.type for event in streamed]


def test_log_probabilities(client: openai.OpenAI) -> None:
    made = _ask(client, include=["message.output_text.logprobs"], top_logprobs=2)
    entries = made.output[0].content[0].logprobs
    assert "".join(entry.token for entry in entries) == made.output_text
    assert all(len(entry.top_logprobs) == 2 for entry in entries)
    streamed = list(_ask(client, include=["message.output_text.logprobs"], top_logprobs=2, stream=True))
    told = [
        entry.token for event in streamed if event.type.endswith("text.delta") for entry in event.logprobs
    ]
    assert told == [entry.token for entry in entries]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": None}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].image_url"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        ({"input": [{"role": "assistant", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"metadata": {"a" * 65: "b"}}, "metadata"),
        ({"metadata": {str(n): "b" for n in range(17)}}, "metadata"),
        ({"background": True, "store": False}, "background"),
        ({"include": ["everything"]}, "include[0]"),
        ({"truncation": "some"}, "truncation"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 10**7}, "max_output_tokens"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages"),
        ({"instruction": "x"}, "instruction"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"instructions": "x" * (1 << 20)}, "instructions"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(stack: Stack, body: dict[str, Any], param: str) -> None:
    whole = {"model": "mocker", "input": "x"} | body
    status, _, answer = stack.one.request("POST", "/v1/responses", whole, HEAD)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert answer["error"]["param"].startswith(param), answer


def test_what_is_not_served_is_no_id(stack: Stack) -> None:
    status, _, answer = stack.one.request("POST", "/v1/responses/compact", {"model": "mocker"}, HEAD)
    assert (status, answer["error"]["code"]) == (404, "not_found")
    assert "/v1/responses/compact is not served" in answer["error"]["message"]


def test_the_oldest_items_are_left_out_where_it_is_too_long(client: openai.OpenAI) -> None:
    def long(number: int) -> Any:
        return {"role": "user", "content": f"{number} " + "word " * 200}

    asked: list[Any] = [long(number) for number in range(8)]
    with pytest.raises(openai.BadRequestError) as caught:
        _ask(client, input=asked)
    assert caught.value.code == "context_length_exceeded"
    made = _ask(client, input=asked, truncation="auto")
    one = _ask(client, input=asked[-1:])
    assert one.usage.input_tokens < made.usage.input_tokens
    more = _ask(client, input=[long(99), *asked], truncation="auto")
    assert more.output_text == made.output_text


def test_the_stream_of_its_request_is_the_same_one(stack: Stack, client: openai.OpenAI) -> None:
    made = _ask(client, background=True)
    until(lambda: _ended(client, made.id))
    raw = made.id.removeprefix("resp_")
    path = f"/v1/requests/{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}/stream"
    whole = list(stack.one.events("GET", path, headers=HEAD))
    seen = [event_id for event_id, _ in whole if event_id]
    rest = list(stack.two.events("GET", path, headers={**HEAD, "last-event-id": seen[0]}))
    assert [json.loads(data) for _, data in rest] == [json.loads(data) for _, data in whole][-len(rest) :]
    assert json.loads(rest[-1][1])["type"] == "response.incomplete"
    by_id = list(
        stack.two.events(
            "GET", f"/v1/responses/{made.id}?stream=true", headers={**HEAD, "last-event-id": seen[0]}
        )
    )
    assert by_id == rest


def _events_path(name: str) -> str:
    raw = name.removeprefix("resp_")
    return f"/v1/requests/{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}/stream"


def test_a_repetition_finds_what_is_kept_and_not_what_was_deleted(
    stack: Stack, client: openai.OpenAI, other: openai.OpenAI
) -> None:
    """Before, it was a 410 as soon as the stream was gone, a minute after the end, though the response was kept."""
    key = {"Idempotency-Key": "kept"}
    made = _ask(client, extra_headers=key)
    log = f"dt:{stack.namespace}:log:{_events_path(made.id).split('/')[3]}"
    until(lambda: 0 < int(stack.server.command("TTL", log)[1:]) <= 60)
    assert stack.server.command("DEL", log) == b":1\r\n"
    assert _ask(other, extra_headers=key).to_dict() == made.to_dict()
    client.responses.delete(made.id)
    with pytest.raises(openai.APIStatusError, match="another key makes a new one") as caught:
        _ask(other, extra_headers=key)
    assert (caught.value.status_code, caught.value.code) == (410, "stream_expired")
    assert _ask(other, extra_headers={"Idempotency-Key": "new"}).id != made.id


@pytest.mark.slow
def test_it_is_gone_when_its_retention_is_over(stack: Stack) -> None:
    """Before, what a frontend had kept of it stayed for a day, whatever the setting said."""
    env, url = {"DYNAMO_NAMESPACE": stack.namespace}, stack.server.url
    with (
        Frontend(url, env=env, settings=("Frontend.response_retention=2",)) as brief,
        _client(brief.base_url) as client,
    ):
        talk = client.conversations.create()
        in_turn, made = _ask(client, conversation=talk.id), _ask(client)
        assert client.responses.retrieve(made.id).to_dict() == made.to_dict()
        background = _ask(client, background=True)

        def gone(name: str) -> bool:
            status, _, _ = brief.request("GET", f"/v1/responses/{name}")
            return status == 404

        for name in (made.id, background.id):
            until(lambda name=name: gone(name), 30, "it is gone")
            assert brief.request("GET", f"/v1/responses/{name}/input_items")[0] == 404
            with pytest.raises(openai.BadRequestError, match="not found"):
                _ask(client, previous_response_id=name)
        assert len(list(client.conversations.items.list(talk.id))) == 2  # none is lost by that
        assert client.responses.retrieve(in_turn.id).to_dict() == in_turn.to_dict()
        key = f"dt:{stack.namespace}:doc:{_events_path(made.id).split('/')[3]}"
        assert stack.server.command("EXISTS", key) == b":0\r\n"


def test_every_boundary_of_a_position(stack: Stack, client: openai.OpenAI) -> None:
    """Before, what lies beyond the last event was a 200 without events: the client took it for the end."""
    made = _ask(client, background=True)
    until(lambda: _ended(client, made.id))
    path = f"/v1/responses/{made.id}?stream=true"
    whole = list(stack.one.events("GET", path, headers=HEAD))
    numbers = [json.loads(data)["sequence_number"] for _, data in whole]
    for after in (0, 1, numbers[-2], numbers[-1]):
        rest = list(stack.two.events("GET", f"{path}&starting_after={after}", headers=HEAD))
        assert rest == whole[after + 1 :]
    for after in (numbers[-1] + 1, 10**6, 2**53):
        status, _, body = stack.two.request("GET", f"{path}&starting_after={after}", headers=HEAD)
        assert (status, body["error"]["param"]) == (400, "starting_after"), after
    ids = [name for name, _ in whole if name]
    epoch, _, top = ids[-1].partition("-")
    for where in (path, _events_path(made.id)):
        for known, expected in {
            ids[0]: 200, ids[-2]: 200, ids[-1]: 204, f"{epoch}-{int(top) + 1}": 400, f"{int(epoch) + 1}-0": 400,
            f"{int(epoch) - 1}-9": 500, f"{epoch}-{int(top) + 1}.1": 400, f"{epoch}-{int(top) + 2}.1": 400,
            "0-0": 200, "nonsense": 400,
        }.items():  # fmt: skip
            status, _, body = stack.two.request("GET", where, headers={**HEAD, "last-event-id": known})
            assert status == expected, (where, known, body)


def test_a_position_beyond_what_there_is_yet(stack: Stack, client: openai.OpenAI) -> None:
    made = _ask(client, background=True, max_output_tokens=3000)
    path = f"/v1/responses/{made.id}?stream=true"
    status, _, body = stack.two.request("GET", f"{path}&starting_after=100000", headers=HEAD)
    assert (status, body["error"]["code"]) == (400, "invalid_event_id")
    for event in client.responses.retrieve(made.id, stream=True):
        if event.sequence_number == 20:
            break
    rest = client.responses.retrieve(made.id, stream=True, starting_after=20)
    assert next(iter(rest)).sequence_number == 21
    client.responses.cancel(made.id)


def test_a_key_sees_its_own_alone(stack: Stack, client: openai.OpenAI) -> None:
    made, talk = _ask(client, background=True), client.conversations.create()
    with _client(stack.two.base_url, "another") as stranger:
        for action in (
            lambda: stranger.responses.retrieve(made.id),
            lambda: list(stranger.responses.retrieve(made.id, stream=True)),
            lambda: stranger.responses.cancel(made.id),
            lambda: stranger.responses.delete(made.id),
            lambda: stranger.responses.input_items.list(made.id),
            lambda: stranger.conversations.retrieve(talk.id),
            lambda: stranger.conversations.delete(talk.id),
            lambda: stranger.conversations.items.list(talk.id),
            lambda: _ask(stranger, conversation=talk.id),
        ):
            with pytest.raises(openai.NotFoundError):
                action()
        with pytest.raises(openai.BadRequestError, match="not found"):
            _ask(stranger, previous_response_id=made.id)
    assert client.responses.retrieve(made.id).status != "cancelled"


def test_a_conversation(client: openai.OpenAI, other: openai.OpenAI) -> None:
    talk = client.conversations.create(
        metadata={"topic": "a"}, items=[{"type": "message", "role": "user", "content": "I am Al"}]
    )
    first = _ask(client, input="who am I?", conversation=talk.id)
    assert first.conversation.id == talk.id
    second = _ask(other, input="are you sure?", conversation=talk.id, stream=True)
    assert list(second)[-1].type == "response.incomplete"
    items = list(client.conversations.items.list(talk.id, order="asc", limit=2))
    texts = [item.content[0].text for item in items]
    assert texts[:4] == ["I am Al", "who am I?", first.output_text, "are you sure?"]
    assert len({item.id for item in items}) == len(texts) == 5
    assert client.conversations.items.retrieve(items[1].id, conversation_id=talk.id).id == items[1].id
    client.conversations.items.delete(items[0].id, conversation_id=talk.id)
    added = client.conversations.items.create(
        talk.id, items=[{"type": "message", "role": "assistant", "content": "quite"}]
    )
    assert added.data[0].content[0].type == "output_text"
    assert len(list(other.conversations.items.list(talk.id))) == 5
    assert client.conversations.update(talk.id, metadata={"topic": "b"}).metadata == {"topic": "b"}
    assert other.conversations.retrieve(talk.id).metadata == {"topic": "b"}
    assert other.conversations.delete(talk.id).deleted
    for one in (client, other):
        with pytest.raises(openai.NotFoundError):
            one.conversations.retrieve(talk.id)
    with pytest.raises(openai.NotFoundError):
        _ask(client, conversation=talk.id)


def test_one_response_at_a_time_in_a_conversation(client: openai.OpenAI, other: openai.OpenAI) -> None:
    talk = client.conversations.create()
    long = _ask(client, conversation=talk.id, background=True, max_output_tokens=3000)
    with pytest.raises(openai.ConflictError) as caught:
        _ask(other, conversation=talk.id)
    assert caught.value.code == "conversation_locked"
    client.responses.cancel(long.id)
    done = _ask(other, conversation=talk.id)
    assert len(list(client.conversations.items.list(talk.id))) == 2
    client.responses.delete(done.id)
    assert len(list(client.conversations.items.list(talk.id))) == 2


def test_a_turn_that_nobody_reads_ends_all_the_same(stack: Stack, client: openai.OpenAI) -> None:
    talk = client.conversations.create()
    _ask(client, conversation=talk.id, background=True)
    key = f"dt:{stack.namespace}:conv-items:{talk.id}"
    until(lambda: stack.server.command("HLEN", key) == b":2\r\n")


def test_an_id_stands_for_one_item_of_a_conversation(client: openai.OpenAI) -> None:
    """Before, the second one was lost without a word."""

    def said(text: str) -> dict[str, Any]:
        return {"type": "message", "role": "user", "content": text, "id": "msg_mine"}

    with pytest.raises(openai.BadRequestError, match=r"items\[1\].id"):
        client.conversations.create(items=[said("one"), said("two")])  # type: ignore[list-item]
    talk = client.conversations.create(items=[said("one")])  # type: ignore[list-item]
    with pytest.raises(openai.BadRequestError, match="has an item with such an id"):
        client.conversations.items.create(talk.id, items=[said("two")])  # type: ignore[list-item]
    with pytest.raises(openai.BadRequestError, match=r"input\[0\].id"):
        _ask(client, conversation=talk.id, input=[said("two")])
    _ask(client, conversation=talk.id, input=[{"type": "item_reference", "id": "msg_mine"}])
    texts = [item.content[0].text for item in client.conversations.items.list(talk.id, order="asc")]
    assert texts[0] == "one"
    assert len(texts) == 2


def test_a_response_that_is_deleted_while_it_runs_frees_its_conversation(client: openai.OpenAI) -> None:
    talk = client.conversations.create()
    long = _ask(client, conversation=talk.id, background=True, max_output_tokens=3000)
    client.responses.delete(long.id)
    _ask(client, conversation=talk.id)
    assert len(list(client.conversations.items.list(talk.id))) == 2


def test_a_conversation_has_a_bound(client: openai.OpenAI) -> None:
    talk = client.conversations.create()
    large = [{"type": "message", "role": "user", "content": "x" * 400_000} for _ in range(20)]
    for _ in range(2):
        client.conversations.items.create(talk.id, items=large)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="bytes"):
        client.conversations.items.create(talk.id, items=large)  # type: ignore[arg-type]
    first = next(iter(client.conversations.items.list(talk.id, limit=1)))
    client.conversations.items.delete(first.id, conversation_id=talk.id)
    client.conversations.items.create(talk.id, items=large[:1])  # type: ignore[arg-type]


def test_an_idempotency_key_holds_while_its_conversation_grows(
    client: openai.OpenAI, other: openai.OpenAI
) -> None:
    """The same body becomes another prompt by then; and while the first response runs, the conversation is its own."""
    talk, key = client.conversations.create(), {"Idempotency-Key": "once"}
    ask = {"conversation": talk.id, "background": True, "max_output_tokens": 300, "extra_headers": key}
    first = _ask(client, **ask)
    assert _ask(other, **ask).id == first.id
    until(lambda: client.responses.retrieve(first.id).status == "incomplete", what="its end")
    assert _ask(other, **ask).id == first.id
    assert len(list(client.conversations.items.list(talk.id))) == 2
    with pytest.raises(openai.ConflictError) as caught:
        _ask(other, **ask, temperature=0.5)
    assert caught.value.code == "idempotency_conflict"
    whole = {"conversation": talk.id, "extra_headers": {"Idempotency-Key": "whole"}}
    assert _ask(client, **whole).to_dict() == _ask(other, **whole).to_dict()
