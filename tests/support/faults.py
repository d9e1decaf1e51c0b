"""Named faults over real processes. Each returns the monotonic time at which it struck."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.proxy import Line
from dynamo_tasks.runtime.inspect import snapshot
from tests.support.processes import Frontend, Process, Worker, until
from tests.support.server import RedisServer

__all__ = [
    "Line",
    "black_hole",
    "by_load",
    "cut_redis",
    "delete_leases",
    "fill_memory",
    "free_memory",
    "freeze_redis",
    "freeze_worker",
    "kill_frontend",
    "kill_redis",
    "kill_worker",
    "memory_cage",
    "restart_redis",
    "thaw_worker",
]


@contextlib.contextmanager
def memory_cage(limit: int) -> Iterator[tuple[str, ...]]:
    """What a process is started with to have ``limit`` bytes of memory: beyond that the kernel kills it.

    A cgroup (version 1 or 2); the test is skipped where none can be made.
    """
    root = Path("/sys/fs/cgroup")
    old = root / "memory"
    cage = (old if old.is_dir() else root) / f"dt-{os.getpid()}"
    try:
        cage.mkdir()
        (cage / ("memory.limit_in_bytes" if old.is_dir() else "memory.max")).write_text(str(limit))
    except OSError as exc:
        with contextlib.suppress(OSError):
            cage.rmdir()
        pytest.skip(f"no memory cgroup can be made here: {exc}")
    try:
        yield ("sh", "-c", f'echo $$ > {cage}/cgroup.procs; exec "$@"', "sh")
    finally:
        until(lambda: not (cage / "cgroup.procs").read_text(), what="the cage is empty")
        cage.rmdir()


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port at which every connect waits for an answer that does not come: its backlog is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        full = False
        while not full:
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.3)
            try:
                filler.connect(listener.getsockname())
            except TimeoutError:
                full = True
        yield listener.getsockname()[1]


def kill_worker(worker: Worker) -> float:
    """``kill -9``; an OOM kill is the same."""
    at = time.monotonic()
    worker.kill()
    return at


def freeze_worker(worker: Worker) -> float:
    """``SIGSTOP``: its sockets stay open, its lease runs out."""
    worker.signal(signal.SIGSTOP)
    return time.monotonic()


def thaw_worker(worker: Worker) -> float:
    """``SIGCONT``: a zombie that believes it still owns what it ran."""
    worker.signal(signal.SIGCONT)
    return time.monotonic()


def kill_frontend(frontend: Frontend) -> float:
    """``kill -9``: its clients are to go on elsewhere."""
    at = time.monotonic()
    _kill(frontend)
    return at


def _kill(process: Process) -> None:
    process.kill()


def kill_redis(server: RedisServer) -> float:
    """``kill -9`` of the server."""
    at = time.monotonic()
    server.kill()
    return at


def restart_redis(server: RedisServer) -> float:
    """``kill -9`` of the server, and a start on its AOF."""
    at = kill_redis(server)
    server.start()
    return at


def freeze_redis(server: RedisServer) -> float:
    """``SIGSTOP`` of the server: connections stay open, nothing is answered. ``server.thaw()`` ends it."""
    server.freeze()
    return time.monotonic()


def cut_redis(line: Line) -> float:
    """The server cannot be reached over this line. ``line.refuse(False)`` ends it."""
    line.refuse()
    return time.monotonic()


def by_load(url: str, workers: Iterable[Worker], n: int) -> list[Worker]:
    """The workers that live, once they run ``n`` requests, the busiest one first."""

    def rows() -> list[dict[str, Any]]:
        found = snapshot(url)["instances"]
        return found if sum(row["in_flight"] for row in found) == n else []

    load = {row["pid"]: row["in_flight"] for row in until(rows, what=f"{n} requests run")}
    return sorted((one for one in workers if one.alive), key=lambda one: -load.get(one.pid, 0))


def fill_memory(server: RedisServer) -> float:
    """The server is at its ``maxmemory``: it refuses every write that needs memory. ``free_memory`` ends it."""
    server.command("CONFIG", "SET", "maxmemory", "1mb")
    return time.monotonic()


def free_memory(server: RedisServer) -> float:
    """There is memory again."""
    server.command("CONFIG", "SET", "maxmemory", "0")
    return time.monotonic()


def delete_leases(server: RedisServer, namespace: str) -> float:
    """The lease keys and registrations are lost, and nothing else."""
    erase = "for _, p in ipairs(ARGV) do for _, k in ipairs(redis.call('KEYS', p)) do redis.call('DEL', k) end end"
    base = f"dt:{namespace}:"
    server.command("EVAL", erase, "0", f"{base}lease:*", f"{base}leases", f"{base}inst:*", f"{base}instances")
    return time.monotonic()
