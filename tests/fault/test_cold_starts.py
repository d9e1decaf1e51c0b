"""Cold starts of a model at zero, with kills of workers and of ``serve`` in between: nothing is lost.

``DYNAMO_TEST_COLD_STARTS=100`` makes a long run of it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis

from tests.support.processes import Frontend, until
from tests.support.readers import Reader, check
from tests.support.serve import Serve
from tests.support.server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROUNDS = int(os.environ.get("DYNAMO_TEST_COLD_STARTS", "20"))
TOKENS = 40
SETTINGS = (
    "--service", "Worker", "--Worker.engine=mocker", "--Worker.engine_args.token_delay_ms=10",
    "--Worker.engine_args.startup_s=0.2", "--Worker.scale.min=0", "--Worker.scale.idle=0.3",
)  # fmt: skip


@dataclass
class Stack:
    """A Redis server and a frontend that stay, and a ``serve`` of the workers that does not."""

    server: RedisServer
    home: Path
    http: Frontend
    serve: Serve
    entered: ExitStack
    killed: dict[str, int] = field(default_factory=lambda: {"worker": 0, "serve": 0})

    def scale(self) -> dict[str, str]:
        with redis.Redis(port=self.server.port, decode_responses=True) as client:
            return dict(client.hgetall("dt:dynamo:scale"))

    def fleet(self) -> dict[str, Any]:
        rows = [json.loads(text) for name, text in self.scale().items() if name.startswith("Worker:fleet:")]
        latest = max(rows, key=lambda row: row["at"], default={})
        return {"running": 0, "starting": 0, "draining": 0} | latest

    def rests(self) -> bool:
        fleet = self.fleet()
        there = fleet["running"] + fleet["starting"] + fleet["draining"]
        return self.scale().get("Worker:wanted") == "0" and not there

    def workers(self) -> list[int]:
        """Process ids of the workers that run, or are being started."""
        with suppress(OSError, ValueError):
            shown = json.loads((self.home / "serve" / f"{self.serve.popen.pid}.json").read_text())
            return [row["pid"] for row in shown["processes"] if row["pid"]]
        return []

    def kill_worker(self) -> None:
        pid = until(self.workers, 60, "a worker")[0]
        with suppress(ProcessLookupError):  # it went by itself
            os.kill(pid, signal.SIGKILL)
            self.killed["worker"] += 1

    def kill_serve(self) -> None:
        self.serve.kill()
        self.killed["serve"] += 1
        self.start()

    def start(self) -> None:
        made = Serve(self.home, *SETTINGS, wait=False, DYNAMO_REDIS_URL=self.server.url)
        self.serve = self.entered.enter_context(made)


@pytest.fixture
def stack(own_server: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    with ExitStack() as entered:
        serve = entered.enter_context(Serve(tmp_path, *SETTINGS, DYNAMO_REDIS_URL=own_server.url))
        http = entered.enter_context(Frontend(own_server.url, settings=("Worker.scale.min=0",)))
        yield Stack(own_server, tmp_path, http, serve, entered)


def first_token(readers: list[Reader]) -> None:
    until(lambda: any(reader.times or reader.error for reader in readers), 60, "the first token")


def disturb(stack: Stack, kind: int, readers: list[Reader]) -> None:
    """One of ten: a worker dies in four of them, and ``serve`` in two."""
    if kind in (2, 3, 5):  # while it answers; else while it starts, or before anybody has seen the request
        first_token(readers)
    if kind < 4:
        stack.kill_worker()
    elif kind < 6:
        stack.kill_serve()


def test_nothing_is_lost_over_many_cold_starts(stack: Stack) -> None:
    dice = Random(7)
    for number in range(ROUNDS):
        until(stack.rests, 60, lambda: f"no worker; {stack.scale()}\n{stack.serve.output}")
        readers = [
            Reader(lambda: [stack.http], f"round {number}, {n}", TOKENS) for n in range(dice.randint(1, 3))
        ]
        for reader in readers:
            reader.start()
        disturb(stack, dice.randrange(10), readers)
        check(readers, 90)
    if ROUNDS >= 100:
        assert min(stack.killed.values()) >= 10, stack.killed
