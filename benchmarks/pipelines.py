"""Calls per second of a service that does nothing.

python -m benchmarks.pipelines [--repeats 5] [--calls 40000] [--in-flight 64] [--celery-calls 4000] [--ray-calls 4000]

``async`` keeps that many calls in flight from one thread, ``sync`` has as many threads with one call each. On Celery,
beside it: the same call of a plain endpoint that does nothing, by a client on the event loop. What is compared takes
turns, run by run; each figure is the median over the repeats, with the range. On Ray only if asked for.
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
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.noop import Noop
from dynamo_tasks import DistributedRuntime
from dynamo_tasks.pipelines import Connection, LocalEnvironment, RemoteEnvironment, connect
from dynamo_tasks.serve.testbed import WorkerPool, embedded_server


class Run(NamedTuple):
    """One run: how long it took as a whole, and each of its calls. Seconds."""

    seconds: float
    taken: list[float]


Case = Callable[[int, int], Run]


def asynchronous(services: Connection, calls: int, in_flight: int) -> Run:
    """One thread."""
    waiting: deque[tuple[float, Future[Any]]] = deque()
    taken: list[float] = []

    def note(began: float, future: Future[Any]) -> None:
        future.result()
        taken.append(time.perf_counter() - began)

    start = time.perf_counter()
    for number in range(calls):
        if len(waiting) >= in_flight:
            note(*waiting.popleft())
        waiting.append((time.perf_counter(), services.call_service_async("noop", number)))
    for one in waiting:
        note(*one)
    return Run(time.perf_counter() - start, taken)


def synchronous(services: Connection, calls: int, in_flight: int) -> Run:
    """As many threads as calls in flight."""
    taken: list[float] = []

    def work() -> None:
        for number in range(calls // in_flight):
            began = time.perf_counter()
            services.call_service("noop", number)
            taken.append(time.perf_counter() - began)

    threads = [threading.Thread(target=work) for _ in range(in_flight)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Run(time.perf_counter() - start, taken)


def endpoint(url: str, calls: int, in_flight: int) -> Run:
    """A client of the plain endpoint."""
    return asyncio.run(_endpoint(url, calls, in_flight))


async def _endpoint(url: str, calls: int, in_flight: int) -> Run:
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

        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(in_flight)))
        return Run(time.perf_counter() - start, taken)


def measure(cases: dict[str, Case], calls: int, in_flight: int, repeats: int) -> None:
    """Run the cases in turns and print a row of the table for each."""
    for case in cases.values():
        case(calls // 10, in_flight)
    runs: dict[str, list[Run]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            runs[name].append(case(calls, in_flight))
    for name, done in runs.items():
        rates = [len(run.taken) / run.seconds for run in done]
        late = [_range([_percentile(run.taken, share) for run in done], ".2f") for share in (0.5, 0.99)]
        print(f"| {name} | {_range(rates, ',.0f')} | {' | '.join(late)} |")


def _percentile(taken: list[float], share: float) -> float:
    """In milliseconds."""
    return 1000 * sorted(taken)[int(share * (len(taken) - 1))]


def _range(figures: list[float], form: str) -> str:
    middle, least, most = (format(one, form) for one in (median(figures), min(figures), max(figures)))
    return f"{middle} ({least}–{most})"


def local(calls: int, in_flight: int, repeats: int) -> None:
    """Services in threads."""
    env = LocalEnvironment("benchmark")
    env.register_service("noop", Noop)
    with connect(env) as services:
        cases: dict[str, Case] = {
            "local, async": partial(asynchronous, services),
            "local, sync": partial(synchronous, services),
        }
        measure(cases, calls, in_flight, repeats)


def celery(calls: int, in_flight: int, repeats: int) -> None:
    """A plain endpoint and a service, each in a worker of its own."""
    with tempfile.TemporaryDirectory() as folder, embedded_server(Path(folder)) as server:
        os.environ["DYNAMO_REDIS_URL"] = server.url
        workers = WorkerPool()
        try:
            workers("benchmarks.noop:Plain")
            workers(
                "dynamo_tasks.pipelines.celery.worker:Operators",
                settings=["Operators.modules=[benchmarks.noop]"],
            )
            env = RemoteEnvironment("benchmark")
            env.register_service("noop", Noop)
            with env, connect(env) as services:
                cases: dict[str, Case] = {
                    "plain endpoint": partial(endpoint, server.url),
                    "celery, async": partial(asynchronous, services),
                }
                measure(cases, calls, in_flight, repeats)
        finally:
            workers.close()


def ray(calls: int, in_flight: int, repeats: int) -> None:
    """A service that is an actor, on a cluster of this machine."""
    env = RemoteEnvironment("benchmark", backend="ray")
    env.register_service("noop", Noop)
    with connect(env) as services:
        measure({"ray, async": partial(asynchronous, services)}, calls, in_flight, repeats)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=40_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--celery-calls", type=int, default=4000, help="0 = leave Celery out")
    parser.add_argument("--ray-calls", type=int, default=0, help="0 = leave Ray out")
    args = parser.parse_args()
    print(f"| {args.in_flight} in flight | calls/s | p50 ms | p99 ms |\n|---|---|---|---|")
    local(args.calls, args.in_flight, args.repeats)
    if args.celery_calls:
        celery(args.celery_calls, args.in_flight, args.repeats)
    if args.ray_calls:
        ray(args.ray_calls, args.in_flight, args.repeats)


if __name__ == "__main__":
    main()
