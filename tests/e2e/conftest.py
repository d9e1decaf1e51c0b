"""One worker and two frontends for the tests of a module: a mocker at 20 ms per token."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.processes import Frontend, Worker, together
from tests.support.records import field
from tests.support.server import RedisServer


@dataclass
class Stack:
    """The processes, and where to look behind them."""

    server: RedisServer
    namespace: str
    worker: Worker
    one: Frontend
    two: Frontend

    def record(self, request_id: str, word: str) -> str:
        """A field of the ledger's record."""
        reply = self.server.command("HGET", f"dt:{self.namespace}:req:{request_id}", field(word))
        return reply.split(b"\r\n")[1].decode() if reply[:1] == b"$" and not reply.startswith(b"$-1") else ""

    def timer(self, name: str) -> float | None:
        """When one of the ledger's timers is due, Unix milliseconds."""
        reply = self.server.command("ZSCORE", f"dt:{self.namespace}:timers", name)
        return float(reply.split(b"\r\n")[1]) if reply[:1] == b"$" and not reply.startswith(b"$-1") else None

    @contextlib.contextmanager
    def worker_paused(self) -> Iterator[None]:
        """The worker hangs, for less than its lease."""
        self.worker.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.worker.signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def stack(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Stack]:
    namespace = request.module.__name__.rpartition(".")[2].replace("_", "-")
    env = {"DYNAMO_NAMESPACE": namespace}
    settings = ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=20")
    url = redis_server.url
    http = ("Frontend.keep_alive=0.5", "Frontend.body_limit=200000")
    with together(
        Worker(url, settings=settings, env=env),
        Frontend(url, env=env, settings=http),
        Frontend(url, env=env, settings=http),
    ) as (worker, one, two):
        yield Stack(redis_server, namespace, worker, one, two)
