"""Worker processes of a user's own services, shared by the tests of a module."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from dynamo_tasks import DistributedRuntime
from tests.support.server import RedisServer

OWN = "tests.integration.runtime.own_services"

Session = Callable[[DistributedRuntime], Coroutine[Any, Any, Any]]


@pytest.fixture
def with_runtime(redis_server: RedisServer) -> Callable[[Session], Any]:
    """Runs a coroutine function with a runtime of its own."""

    def run(session: Session) -> Any:
        async def main() -> Any:
            async with await DistributedRuntime.create(redis_server.url) as runtime:
                return await session(runtime)

        return asyncio.run(main())

    return run
