"""Calls per second of a service that does nothing.

python -m benchmarks.pipelines [--calls 40000] [--in-flight 64] [--celery-calls 4000] [--ray-calls 4000]

``async`` keeps that many calls in flight from one thread, ``sync`` has as many threads with one call each. On Celery,
beside it: the same call of a plain endpoint that does nothing, by a client on the event loop. On Ray only if asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.noop import Noop
from dynamo_tasks import DistributedRuntime
from dynamo_tasks.pipelines import Connection, LocalEnvironment, RemoteEnvironment, connect
from dynamo_tasks.serve.testbed import WorkerPool, embedded_server

T = TypeVar("T")


def asynchronous(services: Connection, calls: int, in_flight: int) -> list[float]:
    """One thread; the latencies in seconds."""
    waiting: deque[tuple[float, Future[Any]]] = deque()
    taken: list[float] = []

    def note(began: float, future: Future[Any]) -> None:
        future.result()
        taken.append(time.perf_counter() - began)

    for number in range(calls):
        if len(waiting) >= in_flight:
            note(*waiting.popleft())
        waiting.append((time.perf_counter(), services.call_service_async("noop", number)))
    for one in waiting:
        note(*one)
    return taken


def synchronous(services: Connection, calls: int, in_flight: int) -> list[float]:
    """As many threads as calls in flight."""
    taken: list[float] = []

    def work() -> None:
        for number in range(calls // in_flight):
            began = time.perf_counter()
            services.call_service("noop", number)
            taken.append(time.perf_counter() - began)

    threads = [threading.Thread(target=work) for _ in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def endpoint(url: str, calls: int, in_flight: int) -> list[float]:
    """A client of the plain endpoint."""
    return asyncio.run(_endpoint(url, calls, in_flight))


async def _endpoint(url: str, calls: int, in_flight: int) -> list[float]:
    taken: list[float] = []
    async with await DistributedRuntime.create(url) as runtime:
        noop = runtime.namespace("benchmark").component("Plain").endpoint("noop")
        client = await noop.client(annotated=False)
        await client.wait_for_instances()

        async def work() -> None:
            for number in range(calls // in_flight):
                began = time.perf_counter()
                assert [one async for one in client.static(number)] == [number]
                taken.append(time.perf_counter() - began)

        await asyncio.gather(*(work() for _ in range(in_flight)))
    return taken


def measure(
    name: str, how: Callable[[T, int, int], list[float]], target: T, calls: int, in_flight: int
) -> str:
    """One row of the table."""
    how(target, calls // 10, in_flight)
    began = time.perf_counter()
    taken = sorted(how(target, calls, in_flight))
    rate = len(taken) / (time.perf_counter() - began)
    p50, p99 = (1000 * taken[int(share * (len(taken) - 1))] for share in (0.5, 0.99))
    return f"| {name} | {rate:,.0f} | {p50:.2f} | {p99:.2f} |"


def local(calls: int, in_flight: int) -> None:
    """Services in threads."""
    env = LocalEnvironment("benchmark")
    env.register_service("noop", Noop)
    with connect(env) as services:
        print(measure("local, async", asynchronous, services, calls, in_flight))
        print(measure("local, sync", synchronous, services, calls, in_flight))


def celery(calls: int, in_flight: int) -> None:
    """A plain endpoint and a service, each in a worker of its own."""
    with tempfile.TemporaryDirectory() as folder, embedded_server(Path(folder)) as server:
        os.environ["DYNAMO_REDIS_URL"] = server.url
        workers = WorkerPool()
        try:
            workers("benchmarks.noop:Plain")
            print(measure("plain endpoint", endpoint, server.url, calls, in_flight))
            workers("dynamo_tasks.pipelines.worker:Operators")
            env = RemoteEnvironment("benchmark")
            env.register_service("noop", Noop)
            with env, connect(env) as services:
                print(measure("celery, async", asynchronous, services, calls, in_flight))
        finally:
            workers.close()


def ray(calls: int, in_flight: int) -> None:
    """A service that is an actor, on a cluster of this machine."""
    env = RemoteEnvironment("benchmark", backend="ray")
    env.register_service("noop", Noop)
    with connect(env) as services:
        print(measure("ray, async", asynchronous, services, calls, in_flight))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=40_000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--celery-calls", type=int, default=4000, help="0 = leave Celery out")
    parser.add_argument("--ray-calls", type=int, default=0, help="0 = leave Ray out")
    args = parser.parse_args()
    print(f"| {args.in_flight} in flight | calls/s | p50 ms | p99 ms |\n|---|---|---|---|")
    local(args.calls, args.in_flight)
    if args.celery_calls:
        celery(args.celery_calls, args.in_flight)
    if args.ray_calls:
        ray(args.ray_calls, args.in_flight)


if __name__ == "__main__":
    main()
