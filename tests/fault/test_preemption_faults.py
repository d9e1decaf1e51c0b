"""Workers that are full of requests of spare capacity, others that come, and what may happen meanwhile."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from dynamo_tasks.store.ledger.fields import Field
from tests.support.faults import restart_redis
from tests.support.processes import Frontend, Worker, until
from tests.support.readers import Reader, check
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow

SLOTS = 3
SETTINGS = (
    "Worker.engine=mocker", "Worker.engine_args.token_delay_ms=20", f"Worker.engine_args.max_num_seqs={SLOTS}",
)  # fmt: skip
FLEX_TOKENS, TOKENS = 150, 10


@dataclass
class Stack:
    """Two workers and a frontend."""

    server: RedisServer
    url: str
    workers: list[Worker]
    http: Frontend
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def reader(self, tokens: int, **more: object) -> Reader:
        made = Reader(lambda: [self.http], f"prompt {next(self.numbers)}", tokens, **more)
        made.start()
        return made

    def preemptions(self) -> int:
        client = redis.Redis(port=self.server.port)
        keys = list(client.scan_iter("dt:dynamo:req:*"))
        return sum(int(client.hget(key, Field.PREEMPTIONS) or 0) for key in keys)


@pytest.fixture
def stack(own_server: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    with ExitStack() as entered:
        url = own_server.url
        workers = [
            entered.enter_context(Worker(url, settings=SETTINGS, name=name, wait=False)) for name in "ab"
        ]
        http = entered.enter_context(Frontend(url, settings=("Worker.ServiceArgs.workers=2",)))
        made = Stack(own_server, url, workers, http)
        yield made
        for worker in made.workers:
            worker.kill()


def answered(readers: list[Reader]) -> None:
    until(lambda: all(reader.done or reader.error for reader in readers), 60, "they have their answers")


def nothing(stack: Stack) -> None:
    """No fault."""


def killed(stack: Stack) -> None:
    """``kill -9`` of a worker; another one is started."""
    stack.workers[0].kill()
    stack.workers[0] = Worker(stack.url, settings=SETTINGS, name="c")


def drained(stack: Stack) -> None:
    """A worker gives what it runs back."""
    stack.workers[0].signal(signal.SIGQUIT)
    stack.workers[0] = Worker(stack.url, settings=SETTINGS, name="c")


def frozen(stack: Stack) -> None:
    """A worker is taken for dead, and goes on."""
    stack.workers[0].signal(signal.SIGSTOP)
    others = (stack.workers[1], stack.http)
    until(lambda: any("instance.died" in one.output for one in others), what="it is taken for dead")
    stack.workers[0].signal(signal.SIGCONT)


def server_restarted(stack: Stack) -> None:
    """Redis is killed, and starts on its AOF; meanwhile those are released for whom the last ones came."""
    restart_redis(stack.server)
    body = {"model": "mocker", "prompt": "again", "max_tokens": 1}
    until(
        lambda: stack.http.request("POST", "/v1/completions", body)[0] == 200,
        what="the frontend is connected",
    )


@pytest.mark.parametrize("fault", [nothing, killed, drained, frozen, server_restarted])
def test_no_token_is_lost_or_repeated(stack: Stack, fault: Callable[[Stack], None]) -> None:
    flex = [stack.reader(FLEX_TOKENS, service_tier="flex") for _ in range(3 * SLOTS)]
    until(lambda: sum(bool(reader.times) for reader in flex) == 2 * SLOTS, what="all slots are taken")
    others: list[Reader] = []
    for number in range(6):
        others += [stack.reader(TOKENS) for _ in range(2)]
        if number == 2:
            fault(stack)
        answered(others)
    assert stack.preemptions() >= 2
    check(flex, 120)
    # What comes while Redis is away is refused, and nothing of it stays.
    refused = [reader for reader in others if fault is server_restarted and "503" in reader.error]
    assert len(refused) <= 4
    check([reader for reader in others if reader not in refused])


def test_others_do_not_wait_for_a_slot(stack: Stack) -> None:
    flex = [stack.reader(FLEX_TOKENS, service_tier="flex") for _ in range(3 * SLOTS)]
    until(lambda: sum(bool(reader.times) for reader in flex) == 2 * SLOTS, what="all slots are taken")
    before = [len(reader.times) for reader in flex]
    other = stack.reader(TOKENS)
    until(lambda: other.done)
    assert max(len(r.times) - n for r, n in zip(flex, before, strict=True)) < FLEX_TOKENS / 2, "one had ended"
    assert stack.preemptions() >= 1
    assert {stack.http.request("GET", f"/v1/requests/{other.request_id}")[2]["attempts"]} == {1}
    check(flex, 120)
    check([other])


@pytest.mark.parametrize("graph", ["a Router in front", "a Processor of its own"])
def test_on_other_ways_to_the_worker(own_server: RedisServer, tmp_path: Path, graph: str) -> None:
    url, far = own_server.url, ("Processor.dynamo.enabled=true",)
    with ExitStack() as entered:
        workers = [
            entered.enter_context(Worker(url, settings=SETTINGS, name=name, wait=False)) for name in "ab"
        ]
        if graph == "a Router in front":
            entered.enter_context(Worker(url, service="workers.routed:Router", name="router"))
            http = Frontend(
                url, service="workers.routed:Frontend", settings=("Worker.ServiceArgs.workers=2",)
            )
        else:
            entered.enter_context(Worker(url, service="workers.agg:Processor", settings=far, name="far"))
            http = Frontend(url, settings=(*far, "Worker.ServiceArgs.workers=2"))
        stack = Stack(own_server, url, workers, entered.enter_context(http))
        flex = [stack.reader(FLEX_TOKENS, service_tier="flex") for _ in range(3 * SLOTS)]
        until(lambda: sum(bool(reader.times) for reader in flex) >= 2 * SLOTS - 1, what="slots are taken")
        others = [stack.reader(TOKENS) for _ in range(4)]
        answered(others)
        assert not any(reader.done for reader in flex), "one had ended before"
        check(others)
        check(flex, 120)
        assert stack.preemptions() >= 2
