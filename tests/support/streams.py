"""The store under test: a queue, an owner, readers, all on one real server."""

from __future__ import annotations

import asyncio
import functools
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from dynamo_tasks.errors import DynamoError, ServerUnavailableError
from dynamo_tasks.protocol.events import End, Event, EventId, Kind
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.options import RequestOptions
from dynamo_tasks.protocol.states import State
from dynamo_tasks.store.ledger.ledger import Attempt, Ledger
from dynamo_tasks.store.ledger.submission import NewRequest
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.registry import new_lease
from dynamo_tasks.store.streams.at_rest import read_all
from dynamo_tasks.store.streams.open_stream import OpenStream
from dynamo_tasks.store.streams.reader import StreamReader
from dynamo_tasks.store.streams.subscription import Subscription
from dynamo_tasks.store.streams.writer import Writer
from tests.support.records import field

__all__ = [
    "Client",
    "Owner",
    "Place",
    "ask_again",
    "eventually",
    "new_request",
    "on_loop",
    "read_to_end",
    "values",
]

DONE = End(State.SUCCEEDED, "stop")


def on_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an asynchronous test on a loop of its own, for at most 30 s."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30):
                await test(*args, **kwargs)

        asyncio.run(bounded())

    return run


def new_request(**given: Any) -> NewRequest:
    """A request; its options may be given beside what else it has."""
    options = {name: given.pop(name) for name in RequestOptions.__struct_fields__ if name in given}
    return NewRequest(options=RequestOptions(**options), **given)


async def eventually(check: Callable[[], Any], timeout: float = 10.0, what: str = "") -> Any:
    """Wait for a condition that no signal announces; the check may be asynchronous."""
    deadline = time.monotonic() + timeout
    while True:
        value = check()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or check}")
        await asyncio.sleep(0.005)


async def ask_again(verb: Callable[[], Awaitable[Any]]) -> Any:
    """The same question until there is an answer, as the callers of the ledger do."""
    while True:
        try:
            return await verb()
        except ServerUnavailableError:
            await asyncio.sleep(0.01)


def values(events: list[Event]) -> list[Any]:
    """All values that the events carry."""
    return [v for event in events if event.kind == Kind.VALUES for v in msgspec.msgpack.decode(event.data)]


class Owner:
    """What a worker process has: a lease, a ledger, a writer."""

    def __init__(self, place: Place, store: Store):
        self.place, self.store = place, store
        self.lease = new_lease()
        self.ledger = Ledger(store)
        self.writer = Writer(store)
        self.deaths: list[DynamoError] = []

    @classmethod
    async def start(cls, place: Place, url: str | None = None, *, alive: bool = True) -> Owner:
        owner = cls(place, await Store.connect(url or place.url))
        await owner.writer.start()
        if alive:
            await owner.live()
        return owner

    async def live(self) -> None:
        await self.place.do("SET", self.place.keys.lease(self.lease), "1", "PX", "60000")

    async def die(self) -> None:
        """As others see it: the lease is gone. The process itself goes on."""
        await self.place.do("DEL", self.place.keys.lease(self.lease))

    async def claim(
        self, request_id: str, *, retries: int = 0, tracked: bool = True, nonce: str | None = None,
        endpoint: EndpointId | None = None,
    ) -> Attempt:  # fmt: skip
        return await self.ledger.claim(
            endpoint or self.place.endpoint, request_id, self.lease, retries=retries, tracked=tracked,
            queue=self.place.queue, message=b"message", nonce=nonce,
        )  # fmt: skip

    def open(self, attempt: Attempt, **options: Any) -> OpenStream:
        return self.writer.open(attempt, self.deaths.append, **options)

    async def run(self, request_id: str, **options: Any) -> OpenStream:
        return self.open(await self.claim(request_id, **options))

    async def write(self, log: OpenStream, *items: Any) -> None:
        """Append, each as an event of its own, and wait until they are in the log."""
        for item in items:
            log.append(item)
            await self.writer.written(log)

    async def finish(self, log: OpenStream, end: End = DONE) -> str:
        return await log.finish(end, b"", settled=True)

    async def close(self) -> None:
        await self.writer.close()
        await self.store.close()


class Client:
    """What a reading process has."""

    def __init__(self, place: Place, store: Store):
        self.place, self.store = place, store
        self.reader = StreamReader(store)
        self.ledger = Ledger(store)

    @classmethod
    async def start(cls, place: Place, url: str | None = None) -> Client:
        client = cls(place, await Store.connect(url or place.url))
        await client.reader.start()
        return client

    async def submit(self, **options: Any) -> Subscription:
        """Queue a request and read it."""
        new = self.place.new(**options)
        sub = self.reader.expect(self.place.namespace, new.id)
        new.reader = self.reader.channel
        await self.ledger.submit(new)
        return sub

    async def join(self, request_id: str, after: EventId | None = None, **options: Any) -> Subscription:
        return await self.reader.join(request_id, after=after, namespace=self.place.namespace, **options)

    async def close(self) -> None:
        await self.reader.close()
        await self.store.close()


class Place:
    """A namespace of a test's own.

    ``async with Place(url) as place:`` closes every owner and client that was started in it.
    """

    def __init__(self, url: str, namespace: str = ""):
        self.url = url
        self.namespace = namespace or f"t{uuid.uuid4().hex[:12]}"
        self.endpoint = EndpointId(self.namespace, "Worker", "generate")
        self.queue = self.endpoint.queue
        self._started: list[Owner | Client] = []

    async def __aenter__(self) -> Place:
        self.store = await Store.connect(self.url)
        self.ledger = Ledger(self.store)
        self.keys = self.store.keys(self.namespace)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for one in self._started:
            await one.close()
        await self.store.close()

    async def do(self, *command: str | bytes | int) -> Any:
        """One command; asked again while the connection of the test itself comes back."""

        async def ask() -> Any:
            return await (await self.store.commands.wire()).execute(*command)

        return await ask_again(ask)

    async def owner(self, url: str | None = None, **options: Any) -> Owner:
        owner = await Owner.start(self, url, **options)
        self._started.append(owner)
        return owner

    async def client(self, url: str | None = None) -> Client:
        client = await Client.start(self, url)
        self._started.append(client)
        return client

    def new(self, request_id: str | None = None, **options: Any) -> NewRequest:
        known: dict[str, Any] = {"message": b"message", "ignore_result": True, "queue": self.queue}
        return new_request(id=request_id or uuid.uuid4().hex, endpoint=self.endpoint, **(known | options))

    async def submit(self, **options: Any) -> str:
        """Queue a request that nobody reads."""
        return await self.ledger.submit(self.new(**options))

    async def running(
        self, owner_url: str | None = None, client_url: str | None = None, **options: Any
    ) -> tuple[Owner, Subscription, OpenStream]:
        """A request that an owner runs and a client reads."""
        owner, client = await self.owner(owner_url), await self.client(client_url)
        sub = await client.submit(**options)
        return owner, sub, await owner.run(sub.request_id)

    async def log(self, request_id: str) -> list[Event]:
        return await ask_again(lambda: read_all(self.store, self.namespace, request_id))

    async def field(self, request_id: str, name: str) -> str | None:
        value = await self.do("HGET", self.keys.record(request_id), field(name))
        return None if value is None else value.decode()

    async def state(self, request_id: str) -> str | None:
        return await self.field(request_id, "state")

    async def snapshot(self, request_id: str) -> dict[str, Any]:
        """Record and log as they are now."""
        keys = [self.keys.record(request_id), self.keys.stream(request_id)]
        return {key: await self.do("DUMP", key) for key in keys}

    async def forget(self, snapshot: dict[str, Any]) -> None:
        """Make the server forget what happened since the snapshot."""
        for key, data in snapshot.items():
            if data is None:
                await self.do("DEL", key)
            else:
                await self.do("RESTORE", key, 0, data, "REPLACE")


async def read_to_end(sub: Subscription) -> list[Event]:
    """Everything that a reader gets."""
    return [event async for event in sub]
