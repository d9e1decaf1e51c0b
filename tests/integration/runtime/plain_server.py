"""A program that serves endpoints from plain code; ends at SIGTERM. Arguments: namespace."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

from dynamo_tasks import Context, DistributedRuntime


async def count(request: dict[str, Any], context: Context) -> AsyncIterator[dict[str, Any]]:
    """Counts; takes the context, as in Dynamo."""
    for number in range(request["n"]):
        yield {"number": number, "id": context.id}
        await asyncio.sleep(request.get("pause", 0))


def square(number: int) -> int:
    """A plain function: runs in a thread."""
    return number * number


class Handlers:
    """A bound method serves, too."""

    async def whoami(self) -> int:
        return os.getpid()


async def main(namespace: str) -> None:
    """Serve two components until told to end."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with await DistributedRuntime.create() as runtime:
        first = runtime.namespace(namespace).component("First")
        builder = first.endpoint("count").endpoint_builder().handler(count).policy("replay")
        await builder.stats_handler(lambda: {"told": 7}).start()
        await first.endpoint("square").endpoint_builder().handler(square).start()
        second = runtime.namespace(namespace).component("Second").endpoint("whoami")
        serving = asyncio.create_task(second.serve_endpoint(Handlers().whoami))
        while not await second.component.instances():
            await asyncio.sleep(0.01)
        print("serving", flush=True)
        await ended.wait()
    await serving
    assert await asyncio.to_thread(square, 3) == 9
    print("ended", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
