"""What the commands that look into a running system need of the layers below.

Loaded at the moment of use: ``dynamo-tasks --help`` and ``serve`` itself must not wait for Celery.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncIterable, Iterable
from typing import Any, Protocol, cast

__all__ = [
    "Client",
    "Item",
    "Runtime",
    "Stream",
    "connect",
    "dead_list",
    "dead_request",
    "open_stream",
    "purge_namespace",
    "put_to_sleep",
    "retry_dead",
    "snapshot",
    "wake",
]


class Item(Protocol):
    """One value of a stream."""

    id: str

    def data(self) -> Any:
        """The value that the endpoint yielded."""
        ...


class Client(Protocol):
    """A client of one endpoint."""

    def generate(self, payload: Any) -> AsyncIterable[Item]:
        """Send a request through the queue and follow its stream."""
        ...


class _Endpoint(Protocol):
    async def client(self) -> Client: ...


class _Component(Protocol):
    def endpoint(self, name: str) -> _Endpoint: ...


class _Namespace(Protocol):
    def component(self, name: str) -> _Component: ...


class Runtime(Protocol):
    """A connection to a system that runs."""

    def namespace(self, name: str) -> _Namespace:
        """The namespace of that name."""
        ...

    async def aclose(self) -> None:
        """Give the connections back."""
        ...


class Stream(Protocol):
    """A request's stream, found by its id."""

    def stream(self, after: str | None = None) -> Iterable[Any]:
        """Yield its values from the start, or after an event id, until its end."""
        ...


def snapshot(url: str, namespace: str | None = None) -> dict[str, Any]:
    """What runs at a Redis URL (in one namespace), in the shape of ``status --json``.

    Raises:
        ServerUnavailableError: the server cannot be reached.
    """
    found: dict[str, Any] = importlib.import_module("dynamo_tasks.runtime.inspect").snapshot(url, namespace)
    jobs = importlib.import_module("dynamo_tasks.pipelines.inspect").jobs_of(url, found["namespaces"])
    return {**found, "jobs": jobs}


def purge_namespace(url: str, namespace: str, *, force: bool = False) -> int:
    """Erase a namespace; returns the number of keys.

    Raises:
        NamespaceInUseError: instances are registered in it.
        ServerUnavailableError: the server cannot be reached.
    """
    inspect = importlib.import_module("dynamo_tasks.runtime.inspect")
    return cast("int", inspect.purge(url, namespace, force=force))


def dead_list(url: str, namespace: str | None = None) -> list[dict[str, Any]]:
    """Requests that used up their attempts, the oldest first.

    Raises:
        ServerUnavailableError: the server cannot be reached.
    """
    found = importlib.import_module("dynamo_tasks.runtime.dead_letters").listed(url, namespace)
    return cast("list[dict[str, Any]]", found)


def dead_request(url: str, request_id: str) -> dict[str, Any]:
    """One of them, with its message.

    Raises:
        RequestNotFoundError: it is in no dead list.
    """
    found = importlib.import_module("dynamo_tasks.runtime.dead_letters").shown(url, request_id)
    return cast("dict[str, Any]", found)


def retry_dead(url: str, request_ids: Iterable[str]) -> None:
    """Queue some of them again.

    Raises:
        RequestNotFoundError: one is in no dead list.
    """
    importlib.import_module("dynamo_tasks.runtime.dead_letters").retried(url, list(request_ids))


def put_to_sleep(
    url: str, namespace: str, component: str, *, instance_id: str | None, level: int, drain: float
) -> dict[str, str]:
    """Put instances of a component to sleep; instance id → state.

    Raises:
        DynamoError: there is none, or one cannot.
    """
    return _ordered(url, namespace, component, "sleep", instance_id=instance_id, level=level, drain=drain)


def wake(url: str, namespace: str, component: str, *, instance_id: str | None) -> dict[str, str]:
    """Wake instances of a component; instance id → state.

    Raises:
        DynamoError: there is none, or one cannot.
    """
    return _ordered(url, namespace, component, "wake_up", instance_id=instance_id)


def _ordered(url: str, namespace: str, component: str, op: str, **how: Any) -> dict[str, str]:
    async def give() -> Any:
        runtime = await importlib.import_module("dynamo_tasks.runtime").DistributedRuntime.create(url)
        async with runtime:
            return await getattr(runtime.namespace(namespace).component(component), op)(**how)

    return cast("dict[str, str]", asyncio.run(give()))


async def connect(url: str) -> Runtime:
    """A runtime for a Redis URL.

    Raises:
        ServerUnavailableError: the server cannot be reached.
    """
    runtime = await importlib.import_module("dynamo_tasks.runtime").DistributedRuntime.create(url)
    return cast("Runtime", runtime)


def open_stream(url: str, request_id: str) -> Stream:
    """The stream of a request, running or finished. Once open, it waits for a server that is away.

    Raises:
        RequestNotFoundError: nobody knows this id.
        StreamExpiredError: its retention is over.
        ServerUnavailableError: the server cannot be reached now.
    """
    importlib.import_module("dynamo_tasks.runtime.inspect").reach(url)
    # The application of the queue layer reads its server from here when it is imported.
    os.environ["DYNAMO_REDIS_URL"] = url
    return cast("Stream", importlib.import_module("dynamo_tasks").StreamResult(request_id))
