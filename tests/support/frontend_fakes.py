"""A gateway that plays scripts: what the HTTP side sees of a request is decided by the test."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec

from dynamo_tasks.errors import DynamoError, RequestNotFoundError
from dynamo_tasks.frontend.app import FrontendApp, create_app
from dynamo_tasks.frontend.gateway import QueuePlace, RequestInfo, ServedModel, Submission
from dynamo_tasks.frontend.http.connection import ConnectionLimits
from dynamo_tasks.frontend.http.server import HttpServer
from dynamo_tasks.frontend.model_names import ModelNames
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.protocol.events import ZERO, Claim, End, ErrorInfo, Event, EventId, Kind
from dynamo_tasks.protocol.http.limits import Allowance, KeyLimits
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.states import State
from dynamo_tasks.protocol.tokens import TokenDelta, encode_deltas

EPOCH = 1_763_790_000_000
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "cached_tokens": 1}


def claim(epoch: int = EPOCH, previous: EventId = ZERO, attempt: int = 1) -> Event:
    return Event(EventId(epoch, 0), str(Kind.CLAIM), Claim(previous, attempt, 0xABC).encode())


def tokens(seq: int, *deltas: TokenDelta, epoch: int = EPOCH) -> Event:
    return Event(EventId(epoch, seq), str(Kind.TOKENS), encode_deltas(deltas))


def text(seq: int, text: str, finish: str | None = None) -> Event:
    return tokens(seq, TokenDelta(text, [seq], 0, finish))


def values(seq: int, *items: Any) -> Event:
    return Event(EventId(EPOCH, seq), str(Kind.VALUES), msgspec.msgpack.encode(list(items)))


def end(seq: int, state: State = State.SUCCEEDED, **fields: Any) -> Event:
    return Event(EventId(EPOCH, seq), str(Kind.END), End(state, **fields).encode())


def failed(seq: int, code: str, message: str, param: str | None = None) -> Event:
    return end(seq, State.FAILED, error=ErrorInfo(code, message, "", param))


def hello() -> list[Event]:
    """``Hello, world!`` in four events with their claim and end."""
    parts = [text(1, "Hel"), text(2, "lo, "), text(3, "wörld"), text(4, "!", "stop")]
    return [claim(), *parts, end(5, finish_reason="stop", usage=USAGE)]


class Log:
    """One request's events, as far as the script has come."""

    def __init__(self, render: bytes = b""):
        self.events: list[Event] = []
        self.render = render
        self.grown = asyncio.Event()

    def add(self, *events: Event) -> None:
        self.events += events
        self.grown.set()
        self.grown = asyncio.Event()


class ScriptedStream:
    def __init__(self, request_id: str, log: Log, after: EventId | None = None):
        self.request_id = request_id
        self.render = log.render
        self.closed = asyncio.Event()
        self._log = log
        self.position = sum(event.id <= after for event in log.events) if after else 0
        self.failure: DynamoError | None = None

    @property
    def saw_end(self) -> bool:
        events = self._log.events
        return bool(events) and events[-1].kind == Kind.END and self.position == len(events)

    async def next(self) -> list[Event]:
        while True:
            if self.failure is not None:
                raise self.failure
            events = self._log.events[self.position :]
            if events or (self._log.events and self._log.events[-1].kind == Kind.END):
                self.position += len(events)
                return events
            await self._log.grown.wait()

    def close(self) -> None:
        self.closed.set()


class FakeGateway:
    """``script(submission)`` gives the events of each request; without one, they come from :attr:`logs`."""

    def __init__(self, script: Callable[[Submission], Iterable[Event]] | None = None):
        self.script = script or (lambda submission: hello())
        self.submissions: list[Submission] = []
        self.logs: dict[str, Log] = {}
        self.streams: list[ScriptedStream] = []
        self.submitted = asyncio.Event()
        self.refusal: DynamoError | None = None
        self.refusals: dict[str, DynamoError] = {}
        self.names = ModelNames()
        self.allowance = Allowance(limit=0)
        self.withdrawn: list[str] = []
        self.places: dict[str, QueuePlace] = {}
        self.alive = True
        self.cancelled: list[tuple[str, str, bool]] = []
        card = ModelCard("tiny")
        generate = EndpointId("dynamo", "Worker", "generate")
        embed = EndpointId("dynamo", "Worker", "embed")
        self.served = {
            "tiny": ServedModel(card, 1_700_000_000, {"generate": generate}),
            "vectors": ServedModel(ModelCard("vectors", kind="embeddings"), 1_700_000_000, {"embed": embed}),
        }

    async def models(self) -> dict[str, ServedModel]:
        return self.names.shown(self.served)

    async def real_models(self) -> dict[str, ServedModel]:
        return self.served

    async def submit(self, submission: Submission) -> ScriptedStream:
        if self.refusal is not None:
            raise self.refusal
        if (refusal := self.refusals.get(submission.payload["model"])) is not None:
            raise refusal
        self.submissions.append(submission)
        log = self.logs[submission.request_id] = Log(submission.render)
        log.add(*self.script(submission))
        self.submitted.set()
        return self._stream(submission.request_id, log)

    async def place(self, request_id: str) -> QueuePlace | None:
        return self.places.get(request_id)

    async def retry(self, request_id: str) -> None:
        pass

    async def enqueue(self, submission: Submission) -> None:
        self.submissions.append(submission)

    async def announce(self, request_id: str) -> None:
        pass

    async def serves(self, endpoint: EndpointId) -> bool:
        return True

    async def admit(self, api: str, request_id: str, owner_key: str, limits: KeyLimits) -> Allowance:
        return self.allowance

    async def withdraw(self, api: str, request_id: str, owner_key: str, limits: KeyLimits) -> None:
        self.withdrawn.append(request_id)

    async def count(self, owner_key: str, limits: KeyLimits) -> Allowance:
        return self.allowance

    async def attach(self, request_id: str, after: EventId | None, owner_key: str | None) -> ScriptedStream:
        if self.refusal is not None:
            raise self.refusal
        return self._stream(request_id, self._log(request_id), after)

    async def status(self, request_id: str, owner_key: str | None) -> RequestInfo:
        log = self._log(request_id)
        last = str(log.events[-1].id) if log.events else "0-0"
        return RequestInfo(request_id, State.RUNNING, "generate", 1.5, 1, last, render=log.render)

    async def cancel(self, request_id: str, owner_key: str | None, purge: bool) -> RequestInfo:
        self.cancelled.append((request_id, owner_key, purge))
        info = await self.status(request_id, owner_key)
        info.state = State.CANCELLED
        info.error = ErrorInfo("cancelled", "cancelled by its owner")
        return info

    async def time(self) -> float:
        return time.time()

    async def measure(self) -> None:
        pass

    async def healthy(self) -> bool:
        return self.alive

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        return self.alive, {"services": {"Worker": {"ready": 1, "wanted": 1}}}

    async def fetch_images(self, body: dict[str, Any], model: ServedModel) -> dict[str, bytes]:
        return {}

    def prepare(self, api: str, body: dict[str, Any], model: ServedModel) -> dict[str, Any]:
        return {**body, "api": api}

    async def tokenize(self, body: dict[str, Any], model: ServedModel) -> dict[str, Any]:
        return {"asked": body, "model": model.card.name}

    def _log(self, request_id: str) -> Log:
        if request_id not in self.logs:
            raise RequestNotFoundError(f"no request {request_id!r} is known")
        return self.logs[request_id]

    def _stream(self, request_id: str, log: Log, after: EventId | None = None) -> ScriptedStream:
        self.streams.append(ScriptedStream(request_id, log, after))
        return self.streams[-1]


@asynccontextmanager
async def in_process(
    gateway: FakeGateway, settings: FrontendSettings | None = None, **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client that calls the application directly."""
    app: FrontendApp = create_app(gateway, settings, **options)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@asynccontextmanager
async def served(
    gateway: FakeGateway,
    settings: FrontendSettings | None = None,
    limits: ConnectionLimits | None = None,
    **options: Any,
) -> AsyncIterator[HttpServer]:
    """A real server on a free port."""
    server = HttpServer(
        create_app(gateway, settings, **options), port=0, streams_end_within=0.1, limits=limits
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def uvicorn_of(server: HttpServer) -> Any:
    """uvicorn's own server inside of a started one: its sockets and connections."""
    assert server._server is not None
    return server._server


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **fields}


def sse(body: str | bytes) -> list[tuple[str | None, Any]]:
    """Pairs of id and data; JSON data is decoded, comments are left out."""
    body = body.decode() if isinstance(body, bytes) else body
    found = []
    for block in body.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "data" in lines:
            data = lines["data"]
            found.append((lines.get("id"), data if data == "[DONE]" else json.loads(data)))
    return found
