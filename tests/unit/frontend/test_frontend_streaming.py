"""The parts of the streaming responder, one by one."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pydantic
import pytest
from starlette.requests import ClientDisconnect

from dynamo_tasks.errors import InvalidRequestError, PayloadTooLargeError
from dynamo_tasks.frontend.app import create_app
from dynamo_tasks.frontend.arguments import Arguments
from dynamo_tasks.frontend.http.incoming import read_body
from dynamo_tasks.frontend.http_call import ClientWatch, RequestMeter
from dynamo_tasks.frontend.openai.render import CompletionRenderer, Render
from dynamo_tasks.frontend.sse import KEEP_ALIVE, EventStreamResponse, KeepAlive
from dynamo_tasks.observe import metrics
from tests.support.frontend_fakes import FakeGateway, Log, ScriptedStream, claim, hello, text


class Channel:
    """An ASGI channel: what the client sends, and what it got."""

    def __init__(self, *messages: dict[str, Any]):
        self.messages = list(messages)
        self.left = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self.grown = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if self.messages:
            return self.messages.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        self.grown.set()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


def part(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


def read(
    *messages: dict[str, Any], length: bytes | None = None, limit: int = 10, expect: bool = False
) -> bytes:
    async def main() -> bytes:
        channel = Channel(*messages)
        channel.left.set()
        headers = [] if length is None else [(b"content-length", length)]
        headers += [(b"expect", b"100-continue")] if expect else []
        return await read_body(channel.receive, headers, limit)

    return asyncio.run(main())


def test_a_body_is_read_in_parts() -> None:
    assert read(part(b"abc", True), part(b"de", True), part(b"")) == b"abcde"
    assert read(part(b"x" * 10), length=b"10") == b"x" * 10


@pytest.mark.parametrize(
    ("messages", "length"),
    [
        ([part(b"x" * 11)], b"11"),
        ([part(b"x" * 11)], None),
        ([part(b"x" * 6, True), part(b"x" * 6)], None),
        ([part(b"x" * 11)], b"3"),
        ([], b"1000"),
        ([part(b"x" * 100, True)], None),
    ],
)
def test_a_body_over_the_limit_is_refused(messages: list[dict[str, Any]], length: bytes | None) -> None:
    with pytest.raises(PayloadTooLargeError):
        read(*messages, length=length)


def test_a_client_that_waits_for_leave_to_upload_does_not_get_it() -> None:
    with pytest.raises(PayloadTooLargeError):
        read(length=b"11", expect=True)


@pytest.mark.parametrize("length", [b"", b"-1", b"a"])
def test_a_length_that_is_no_number_is_refused(length: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        read(part(b""), length=length)


def test_a_client_that_leaves_while_it_uploads() -> None:
    with pytest.raises(ClientDisconnect):
        read(part(b"a", True))


def test_the_watch_ends_its_block_when_the_client_leaves() -> None:
    async def main() -> None:
        channel = Channel()
        channel.left.set()
        async with ClientWatch(channel.receive) as client:
            await asyncio.Event().wait()
        assert client.gone
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    asyncio.run(main())


def test_the_watch_lets_a_cancellation_from_outside_through() -> None:
    async def main() -> None:
        entered = asyncio.Event()

        async def watched() -> None:
            async with ClientWatch(Channel().receive):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(watched())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_the_watch_lets_errors_through() -> None:
    async def main() -> None:
        async with ClientWatch(Channel().receive):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        asyncio.run(main())


def test_keep_alive_is_silent_while_the_owner_sends() -> None:
    async def main() -> None:
        channel = Channel()
        keep_alive = KeepAlive(channel.send, 0.01)
        keep_alive.busy = True
        keep_alive.start()
        looked = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.05, looked.set_result, None)
        await looked
        assert not channel.sent
        keep_alive.sent()
        await channel.grown.wait()
        assert channel.body == KEEP_ALIVE
        keep_alive.stop()
        keep_alive.stop()

    asyncio.run(main())


def test_one_batch_is_one_send() -> None:
    async def main() -> None:
        channel, log = Channel(), Log()
        log.add(*hello())
        stream = ScriptedStream("r", log)
        renderer = CompletionRenderer(Render("chat", "r", "m", 1))
        await EventStreamResponse(stream, renderer, api="chat")({}, channel.receive, channel.send)
        assert [message["type"] for message in channel.sent] == ["http.response.start", "http.response.body"]
        assert not channel.sent[-1]["more_body"]
        assert stream.closed.is_set()

    asyncio.run(main())


def test_a_cancelled_response_leaves_the_stream() -> None:
    async def main() -> None:
        channel, log = Channel(), Log()
        log.add(claim(), text(1, "a"))
        stream = ScriptedStream("r", log)
        response = EventStreamResponse(stream, CompletionRenderer(Render("chat", "r", "m", 1)), api="chat")
        task = asyncio.create_task(response({}, channel.receive, channel.send))
        while not channel.body:
            channel.grown.clear()
            await channel.grown.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stream.closed.is_set()

    asyncio.run(main())


def test_lifespan_is_answered() -> None:
    async def main() -> None:
        channel = Channel({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
        await create_app(FakeGateway())({"type": "lifespan"}, channel.receive, channel.send)
        assert [message["type"] for message in channel.sent] == [
            "lifespan.startup.complete", "lifespan.shutdown.complete",
        ]  # fmt: skip

    asyncio.run(main())


def test_a_meter_counts_each_token_once() -> None:
    def value(name: str, **labels: str) -> float:
        return metrics.INSTRUMENTS.registry.get_sample_value(f"dynamo_tasks_{name}", labels) or 0

    meter = RequestMeter("meter-test")
    meter.model = "meter-model"
    assert value("http_in_flight", api="meter-test") == 1
    for tokens in range(1, 41):
        meter.delivered(tokens)
    assert value("http_tokens_total", model="meter-model", kind="completion") == 33
    meter.done(200, 40, {"prompt_tokens": 5, "completion_tokens": 40, "cached_tokens": 2})
    assert value("http_tokens_total", model="meter-model", kind="completion") == 40
    assert value("http_tokens_total", model="meter-model", kind="prompt") == 5
    assert value("http_tokens_total", model="meter-model", kind="cached") == 2
    assert value("inter_token_seconds_count", model="meter-model") == 2
    assert value("time_to_first_token_seconds_count", model="meter-model") == 1
    assert value("http_in_flight", api="meter-test") == 0


class Topping(pydantic.BaseModel):
    """A user's model."""

    grams: int


class Order(pydantic.BaseModel):
    """Another one, with that one inside."""

    toppings: list[Topping]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"order": {"toppings": [{"grams": "much"}]}}, "order.toppings[0].grams"),
        ({"toppings": [{"grams": "much"}]}, "toppings[0].grams"),
        ({"order": 3}, "order"),
    ],
)
def test_a_fault_deep_in_a_model_is_one_line_with_its_path(body: Any, path: str) -> None:
    def handler(order: Order) -> None: ...

    assert Arguments(handler).bind({"toppings": [{"grams": 3}]}) == {
        "order": Order(toppings=[Topping(grams=3)])
    }
    with pytest.raises(InvalidRequestError, match=f"^{re.escape(path)}: Input should be a valid .*$") as info:
        Arguments(handler).bind(body)
    assert info.value.param == path


def test_models_inside_of_other_types_are_checked_too() -> None:
    def handler(toppings: list[Topping], one: Topping | None = None) -> None: ...

    bound = Arguments(handler).bind({"toppings": [{"grams": 1}], "one": {"grams": 2}})
    assert bound == {"toppings": [Topping(grams=1)], "one": Topping(grams=2)}
    for body, path in (({"toppings": [{}]}, "toppings[0].grams"), ({"toppings": [], "one": {}}, "one.grams")):
        with pytest.raises(InvalidRequestError) as info:
            Arguments(handler).bind(body)
        assert info.value.param == path


def test_what_cannot_be_checked_is_passed_on() -> None:
    def handler(item: asyncio.Queue, *, other=3, **rest) -> None: ...  # type: ignore[no-untyped-def, type-arg]

    assert Arguments(handler).bind({"item": 1, "more": 2}) == {"item": 1, "more": 2}
