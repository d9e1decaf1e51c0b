"""Worker processes of a user's own services, shared by the tests of a module."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from dynamo_tasks import DistributedRuntime
from dynamo_tasks.errors import RequestNotFoundError
from dynamo_tasks.runtime.components.remote_call import RemoteCall
from tests.support.server import RedisServer
from tests.support.streams import eventually

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


async def sent(runtime: DistributedRuntime, call: RemoteCall) -> asyncio.Task[Any]:
    """The result of a call that the ledger knows; it is still to come."""
    result = asyncio.create_task(call.result())

    async def known() -> bool:
        with contextlib.suppress(RequestNotFoundError):
            return bool(await runtime.client.ledger.get(call.id))
        return False

    await eventually(known)
    return result
