"""Calls per second of a service that does nothing.

python -m benchmarks.pipelines [--calls 40000] [--in-flight 64]

``async`` keeps that many calls in flight from one thread, ``sync`` has as many threads with one call each.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from dynamo_tasks.pipelines import Connection, LocalEnvironment, connect

Timed = Callable[[Connection, int, int], list[float]]


class Noop:
    """Does nothing."""

    def process(self, value: Any) -> Any:
        return value


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


def measure(name: str, how: Timed, services: Connection, calls: int, in_flight: int) -> str:
    """One row of the table."""
    how(services, calls // 10, in_flight)
    began = time.perf_counter()
    taken = sorted(how(services, calls, in_flight))
    rate = len(taken) / (time.perf_counter() - began)
    p50, p99 = (1000 * taken[int(share * (len(taken) - 1))] for share in (0.5, 0.99))
    return f"| {name} | {rate:,.0f} | {p50:.2f} | {p99:.2f} |"


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=40_000)
    parser.add_argument("--in-flight", type=int, default=64)
    args = parser.parse_args()
    env = LocalEnvironment("benchmark")
    env.register_service("noop", Noop)
    print(f"| {args.in_flight} in flight | calls/s | p50 ms | p99 ms |\n|---|---|---|---|")
    with connect(env) as services:
        print(measure("local, async", asynchronous, services, args.calls, args.in_flight))
        print(measure("local, sync", synchronous, services, args.calls, args.in_flight))


if __name__ == "__main__":
    main()
