"""Endpoints of every kind, validation, dependencies: the caller's code is the same wherever they run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from dynamo_tasks.errors import InvalidRequestError, RequestCancelledError, UnknownEndpointError
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.tokens import CompletionAggregate, TokenDelta
from dynamo_tasks.sdk import (
    DynamoEndpoint,
    LocalClient,
    LocalEndpoint,
    depends,
    dynamo_endpoint,
    get_resolver,
    service,
    set_resolver,
    to_plain,
)
from dynamo_tasks.sdk.context import Context


class Message(msgspec.Struct):
    role: str


class Chat(msgspec.Struct):
    messages: list[Message]
    max_tokens: int = 1


@dataclass
class Point:
    x: int
    y: int = 0


class Options(TypedDict):
    depth: int


class Model(pydantic.BaseModel):
    items: list[Point]


class Wrapped(msgspec.Struct):
    model: Model


def endpoint_for(annotation: Any) -> DynamoEndpoint:
    def method(self, request):
        return request

    method.__annotations__["request"] = annotation
    return DynamoEndpoint(method)


@pytest.mark.parametrize(
    ("annotation", "payload", "expected"),
    [
        (Chat, {"messages": [{"role": "user"}]}, Chat([Message("user")])),
        ("Chat", {"messages": []}, Chat([])),
        (Point, {"x": 1}, Point(1)),
        (Point, Point(3), Point(3)),
        (Options, {"depth": 2}, {"depth": 2}),
        (Model, {"items": [{"x": 1}]}, Model(items=[Point(1)])),
        (list[Model], [{"items": []}], [Model(items=[])]),
        (Model | None, {"items": []}, Model(items=[])),
        (Wrapped, {"model": {"items": [{"x": 2}]}}, Wrapped(Model(items=[Point(2)]))),
        (dict, {"any": [1]}, {"any": [1]}),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (str, "hi", "hi"),
        (str | None, None, None),
        (Any, [1, None], [1, None]),
    ],
)
def test_validate(annotation, payload, expected):
    assert endpoint_for(annotation).validate(payload) == expected


@pytest.mark.parametrize(
    ("annotation", "payload", "param", "text"),
    [
        (Chat, {"messages": [{"role": "a"}, {"role": 3}]}, "messages[1].role", "Expected `str`, got `int`"),
        (Chat, {"messages": [{}]}, "messages[0].role", "missing required field"),
        (Chat, {}, "messages", "missing required field"),
        (Chat, [1], "request", "Expected `object`, got `array`"),
        (Point, {"x": "1"}, "x", "Expected `int`, got `str`"),
        (Options, {"depth": None}, "depth", "Expected `int`, got `null`"),
        (Model, {"items": [{"x": "one"}]}, "items[0].x", "valid integer"),
        (Model, {}, "items", "Field required"),
        (list[Model], [{"items": [{"x": "one"}]}], "[0].items[0].x", "valid integer"),
        (Model | None, {"items": 1}, "items", "valid list"),
        (Wrapped, {"model": {"items": [{"x": "one"}]}}, "model.items[0].x", "valid integer"),
        (Wrapped, {"model": 1}, "model", "valid dictionary"),
        (dict, "text", "request", "Expected `object`, got `str`"),
        (str, {"a": 1}, "request", "Expected `str`, got `object`"),
        (dict[str, int], {"a": "x"}, "[...]", "Expected `int`, got `str`"),
    ],
)
def test_validation_errors_name_the_field(annotation, payload, param, text):
    with pytest.raises(InvalidRequestError) as info:
        endpoint_for(annotation).validate(payload)
    assert info.value.param == param
    assert info.value.message.startswith(f"{param}: ")
    assert text in info.value.message


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (TokenDelta("a", [1]), {"text": "a", "token_ids": [1], "index": 0, "finish_reason": None}),
        (Message("u"), {"role": "u"}),
        (Point(1, 2), {"x": 1, "y": 2}),
        (Model(items=[]), {"items": []}),
        ("x", "x"),
        ([Point(1), {"m": Model(items=[])}], [{"x": 1, "y": 0}, {"m": {"items": []}}]),
        ([1, b"raw"], [1, b"raw"]),
    ],
)
def test_to_plain(value, plain):
    assert to_plain(value) == plain


class Recorder:
    """A resolver that notes what it is asked, with services that live in this process."""

    def __init__(self) -> None:
        self.instances: dict[str, object] = {}
        self.asked: list[Any] = []

    def remote(self, target: Any) -> Any:
        self.asked.append(target)
        return f"remote {getattr(target, 'name', target)}"

    def task(self, endpoint: EndpointId, declared: DynamoEndpoint | None) -> Any:
        self.asked.append((str(endpoint), declared))
        return RecordedTask(str(endpoint))

    def local(self, service: Any) -> object | None:
        return self.instances.get(service.name)


class RecordedTask:
    def __init__(self, name: str) -> None:
        self.name = name

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        return ("delay", self.name, args, kwargs)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        return ("apply_async", args, kwargs, options)

    def s(self, *args: Any, **kwargs: Any) -> Any:
        return ("s", args)

    def si(self, *args: Any, **kwargs: Any) -> Any:
        return ("si", args)

    def signature(self, *args: Any, **kwargs: Any) -> Any:
        return ("signature", args, kwargs)


@pytest.fixture
def resolver() -> Iterator[Recorder]:
    recorder = Recorder()
    set_resolver(recorder)
    yield recorder
    set_resolver(None)


class Whole:
    def __init__(self) -> None:
        self.total = 0

    def add(self, value: int) -> None:
        self.total += value

    def result(self) -> int:
        return self.total


@service(dynamo={"namespace": "dynamo"})
class Worker:
    def __init__(self) -> None:
        self.closed = threading.Event()
        self.threads: set[int] = set()

    @dynamo_endpoint()
    async def generate(self, request: dict):
        try:
            for index in range(request["n"]):
                yield TokenDelta(str(index), [index])
        finally:
            self.closed.set()

    @dynamo_endpoint(aggregate=CompletionAggregate)
    async def complete(self, request):
        for index in range(3):
            yield TokenDelta(str(index), [index])

    @dynamo_endpoint()
    async def double(self, request: int) -> int:
        return request * 2

    @dynamo_endpoint()
    def slow(self, request):
        self.threads.add(threading.get_ident())
        return Point(request)

    @dynamo_endpoint(aggregate=Whole)
    def count(self, request: int):
        try:
            for index in range(request):
                self.threads.add(threading.get_ident())
                yield index
        finally:
            self.closed.set()

    @dynamo_endpoint("chat/completions")
    async def chat(self):
        return "no argument"

    @dynamo_endpoint()
    async def fails(self, request):
        yield 1
        raise ValueError("broken")


@service
class Helper:
    greeting = "hi"

    def greet(self, name: str) -> str:
        return f"{self.greeting} {name}"


@service(dynamo={"namespace": "dynamo"})
class Processor:
    worker = depends(Worker)
    helper = depends(Helper)
    elsewhere = depends("dyn://prod.Other.generate")


@pytest.fixture
def worker(resolver: Recorder) -> Any:
    instance = Worker()
    resolver.instances = {"Worker": instance, "Helper": Helper()}
    return instance


async def gather(call: Any) -> list[Any]:
    return [value async for value in call]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("generate", "async_gen"), ("double", "coroutine"), ("slow", "function"), ("count", "generator")],
)
def test_kinds(name, kind):
    assert Worker.get_endpoint(name).kind == kind


def test_local_calls(worker):
    async def scenario() -> None:
        client = Processor().worker
        assert [chunk["text"] for chunk in await gather(client.generate({"n": 3}))] == ["0", "1", "2"]
        assert len(await client.generate({"n": 2})) == 2
        assert await client.complete({}) == {
            "text": "012",
            "token_ids": [0, 1, 2],
            "finish_reason": None,
            "usage": {"prompt_tokens": 0, "completion_tokens": 3, "cached_tokens": 0},
        }
        assert await client.double(4) == 8
        assert await gather(client.double(4)) == [8]
        assert await client.slow(5) == {"x": 5, "y": 0}
        assert await gather(client.count(3)) == [0, 1, 2]
        assert await client.count(3) == 3
        assert await client.chat() == "no argument"
        assert threading.get_ident() not in worker.threads

    asyncio.run(scenario())


def test_client_of_one_endpoint(worker):
    async def scenario() -> None:
        client = await Processor().worker.get_endpoint("generate")
        assert client.name == "generate"
        assert len(await gather(client.generate({"n": 2}))) == 2
        assert len(await gather(await client.generate({"n": 2}))) == 2
        assert len(await gather(await client.round_robin({"n": 2}))) == 2
        assert len(await gather(client.direct({"n": 2}, 7))) == 2
        assert len(await client({"n": 2})) == 2

    asyncio.run(scenario())


def test_errors_come_out_of_the_call(worker):
    async def scenario() -> None:
        client = Processor().worker
        with pytest.raises(InvalidRequestError, match="request: Expected `int`"):
            await client.double("x")
        with pytest.raises(InvalidRequestError):
            await gather(client.generate("x"))
        with pytest.raises(ValueError, match="broken"):
            await gather(client.fails(1))
        with pytest.raises(UnknownEndpointError, match=r"did you mean 'generate'\? \(available: chat"):
            client.generte({})
        with pytest.raises(AttributeError):
            await client.get_endpoint("nope")
        assert not hasattr(client, "closed")

    asyncio.run(scenario())


@pytest.mark.parametrize(("name", "request_"), [("generate", {"n": 9}), ("count", 9)])
def test_aclose_stops_the_endpoint(worker, name, request_):
    async def scenario() -> None:
        call = getattr(Processor().worker, name)(request_)
        await anext(call)
        await call.aclose()
        await call.aclose()
        assert await gather(call) == []
        unstarted = getattr(Processor().worker, name)(request_)
        await unstarted.aclose()
        assert await gather(unstarted) == []

    asyncio.run(scenario())
    assert worker.closed.is_set()


def test_cancelled_iteration_of_a_plain_generator_closes_it(resolver):
    entered, go = threading.Event(), threading.Event()

    @service(dynamo={})
    class Slow:
        closed = threading.Event()

        @dynamo_endpoint()
        def wait(self, request):
            try:
                entered.set()
                go.wait(10)
                yield 1
            finally:
                self.closed.set()

    async def scenario() -> None:
        task = asyncio.ensure_future(gather(LocalClient(Slow, Slow()).wait(None)))
        await asyncio.to_thread(entered.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not Slow.closed.is_set()
        go.set()
        assert await asyncio.to_thread(Slow.closed.wait, 10)

    asyncio.run(scenario())


def test_plain_service_is_called_as_it_is(worker):
    processor = Processor()
    assert processor.helper.greet("you") == "hi you"
    assert processor.helper.greeting == "hi"
    with pytest.raises(UnknownEndpointError, match="available: none"):
        processor.helper.greeet("you")


def test_remote_dependencies(resolver):
    processor = Processor()
    assert processor.worker == "remote Worker"
    assert processor.worker == "remote Worker"
    assert processor.elsewhere == "remote generate"
    assert resolver.asked == [Worker, EndpointId("prod", "Other", "generate")]
    processor.worker = "a stand-in"
    assert processor.worker == "a stand-in"


def test_an_instance_that_appears_later_is_called_directly(resolver):
    processor = Processor()
    assert processor.worker == "remote Worker"
    resolver.instances["Worker"] = Worker()
    assert isinstance(processor.worker, LocalClient)
    assert processor.worker is processor.worker


def test_link_binds_once(resolver):
    @service(dynamo={})
    class Frontend:
        worker = depends(Worker)

    assert Frontend.link() is Frontend
    assert Frontend.is_linked()
    Frontend.link()
    assert resolver.asked == [Worker]
    set_resolver(other := Recorder())
    other.instances["Worker"] = Worker()
    assert isinstance(Frontend().worker, LocalClient)
    assert isinstance(Frontend().worker.generate, LocalEndpoint)


def test_celery_calls_go_through_the_resolver(resolver):
    assert Worker.generate.delay({"n": 1}) == ("delay", "dynamo.Worker.generate", ({"n": 1},), {})
    assert resolver.asked == [("dynamo.Worker.generate", Worker.generate)]
    assert Worker.generate.apply_async(({},), countdown=3) == ("apply_async", ({},), None, {"countdown": 3})
    assert Worker.generate.s(1) == ("s", (1,))
    assert Worker.generate.si(1) == ("si", (1,))
    assert Worker.generate.signature((1,), priority=2) == ("signature", ((1,),), {"priority": 2})
    assert get_resolver() is resolver


def test_endpoint_on_an_instance_is_the_method(worker):
    assert asyncio.run(worker.double(2)) == 4
    assert worker.slow(1) == Point(1)
    assert Worker.double.request_type is int
    assert asyncio.run(Worker.double(worker, 3)) == 6


@pytest.mark.parametrize("how", ["stop_generating", "kill"])
def test_a_context_ends_a_call_in_the_same_process(how: str) -> None:
    class Numbers:
        @dynamo_endpoint
        async def count(self) -> AsyncIterator[int]:
            for number in range(10):
                yield number

    async def main() -> list[int]:
        context, values = Context(), []
        call = LocalEndpoint(Numbers.count, Numbers()).direct(None, 1, context=context)
        async for value in call:
            values.append(value)
            if value == 2:
                getattr(context, how)()
        return values

    if how == "kill":
        with pytest.raises(RequestCancelledError):
            asyncio.run(main())
    else:
        assert asyncio.run(main()) == [0, 1, 2]
