"""The pytest plugin: fixtures for tests of services. See docs/testing.md.

pytest loads this module in every session of an environment that has dynamo-tasks: nothing else is imported
before a fixture is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dynamo_tasks.serve.testbed import ServerHandle, WorkerPool

__all__ = ["dynamo_server", "dynamo_worker", "stream_result"]

DEFAULT_TIMEOUT = 30.0


@pytest.fixture(scope="session")
def dynamo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHandle]:
    """The embedded server of this test session, with ``url``; ``DYNAMO_REDIS_URL`` is set to it."""
    from dynamo_tasks.serve.testbed import embedded_server
    from dynamo_tasks.store.client import close_shared

    with (
        embedded_server(tmp_path_factory.mktemp("dynamo")) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("DYNAMO_REDIS_URL", server.url)
        yield server
        close_shared(server.url)


@pytest.fixture(scope="session")
def dynamo_worker(dynamo_server: ServerHandle) -> Iterator[WorkerPool]:
    """Starts real workers: ``dynamo_worker("shop.llm:Worker", settings=["Worker.engine=mocker"])``.

    It returns once the worker is ready. Asked again with the same arguments, it gives the same worker. They end with
    the session.
    """
    from dynamo_tasks.serve.testbed import WorkerPool

    pool = WorkerPool()
    yield pool
    pool.close()


@pytest.fixture
def stream_result() -> Callable[..., list[Any]]:
    """Reads a stream to its end: ``stream_result(Worker.generate.delay(...), timeout=10)`` → list of its values.

    Takes a result, or the id of a request. Raises what the request failed with, and ``TimeoutError``.
    """

    def read(result: Any, *, timeout: float = DEFAULT_TIMEOUT) -> list[Any]:
        return asyncio.run(_read(result, timeout))

    return read


async def _read(result: Any, timeout: float) -> list[Any]:
    if isinstance(result, str):
        from dynamo_tasks import StreamResult

        result = StreamResult(result)
    async with asyncio.timeout(timeout):
        return [value async for value in result]
