"""Requests are cancelled, purged or asked for again while nobody owns them: their worker died, or hands them over."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from benchmarks.undisturbed import undisturbed
from dynamo_tasks.runtime.inspect import snapshot
from dynamo_tasks.store.keys import Keys
from dynamo_tasks.store.ledger.fields import Field
from tests.support.faults import by_load, kill_worker
from tests.support.processes import Frontend, Worker, until
from tests.support.readers import MODEL, PACED, Reader, start
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow

STREAMS, TOKENS = 8, 250
APART = 0.08
"""Seconds between two requests: together they cover the time until the last one has been taken over."""


class Stack:
    """Two workers, of which each test may kill one, and two frontends."""

    def __init__(self, server: RedisServer, entered: ExitStack):
        self.server, self._entered = server, entered
        self.workers: list[Worker] = []
        self.mend(wait=False)
        settings = ("Worker.ServiceArgs.workers=2",)
        self.frontends = [
            entered.enter_context(Frontend(server.url, settings=settings, ready="")) for _ in range(2)
        ]
        self.mend()
        self.redis = redis.Redis(port=server.port)
        self.keys = Keys("dynamo")

    def mend(self, wait: bool = True) -> None:
        """Two workers live, and the frontends know them."""
        while sum(worker.alive for worker in self.workers) < 2:
            worker = Worker(self.server.url, settings=PACED, name=f"w{len(self.workers)}", wait=False)
            self.workers.append(self._entered.enter_context(worker))
        if wait:
            until(lambda: all(one.get("/ready")[0] == 200 for one in self.frontends), 40, "all are ready")

    def busiest(self) -> Worker:
        return by_load(self.server.url, self.workers, STREAMS)[0]

    def is_idle(self) -> bool:
        return sum(row["in_flight"] for row in snapshot(self.server.url)["instances"]) == 0

    def log(self, reader: Reader) -> list[dict[bytes, bytes]]:
        return [fields for _, fields in self.redis.xrange(self.keys.stream(reader.request_id))]

    def state(self, reader: Reader) -> bytes | None:
        return self.redis.hget(self.keys.record(reader.request_id), Field.STATE)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with RedisServer(tmp_path_factory.mktemp("cancel")) as server, ExitStack() as entered:
        made = Stack(server, entered)
        yield made
        made.redis.close()


@pytest.fixture
def stack(running: Stack) -> Stack:
    running.mend()
    return running


def _one_after_the_other(act: Callable[[int], Any]) -> list[Any]:
    """Eight calls, :data:`APART`, that may overlap."""
    answers: list[Any] = [None] * STREAMS

    def at(n: int) -> None:
        time.sleep(n * APART)  # the moment of the fault
        answers[n] = act(n)

    threads = [threading.Thread(target=at, args=(n,)) for n in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def _delete(stack: Stack, readers: list[Reader], query: str = "") -> None:
    def delete(n: int) -> tuple[int, str]:
        path = f"/v1/requests/{readers[n].request_id}{query}"
        status, _, body = stack.frontends[n % 2].request("DELETE", path)
        return status, body["status"]

    assert _one_after_the_other(delete) == [(200, "cancelled")] * STREAMS


def _are_cancelled(stack: Stack, readers: list[Reader]) -> None:
    """Each reader was told, what it got is a beginning of its text, and no engine goes on."""
    texts = undisturbed([reader.prompt for reader in readers], TOKENS)
    for reader, text in zip(readers, texts, strict=True):
        reader.join(30)
        assert '"code":"cancelled"' in reader.error.replace(" ", ""), (reader.error, reader.done)
        assert text.startswith(reader.text)
    until(stack.is_idle, 20, "no engine runs")
    assert [stack.state(reader) for reader in readers] == [b"CANCELLED"] * STREAMS


def _have_one_end(stack: Stack, readers: list[Reader]) -> None:
    for reader in readers:
        ends = [b"e" in fields for fields in stack.log(reader)]
        assert ends == [False] * (len(ends) - 1) + [True], reader.request_id


def test_delete_while_its_worker_is_dead(stack: Stack) -> None:
    readers = start(*stack.frontends, n=STREAMS, tokens=TOKENS)
    kill_worker(stack.busiest())
    _delete(stack, readers)
    _are_cancelled(stack, readers)
    _have_one_end(stack, readers)


def test_delete_while_it_is_handed_over(stack: Stack) -> None:
    readers = start(*stack.frontends, n=STREAMS, tokens=TOKENS)
    leaving = stack.busiest()
    leaving.signal(signal.SIGQUIT)
    _delete(stack, readers)
    _are_cancelled(stack, readers)
    _have_one_end(stack, readers)
    assert leaving.popen.wait(30) == 0, leaving.output


def test_purge_while_its_worker_is_dead(stack: Stack) -> None:
    """Nobody writes the log again; nothing of the payload is left."""
    readers = start(*stack.frontends, n=STREAMS, tokens=TOKENS)
    kill_worker(stack.busiest())
    _delete(stack, readers, "?purge=true")
    for reader in readers:
        reader.join(30)
        assert reader.error
    until(stack.is_idle, 20, "no engine runs")
    for reader in readers:
        assert stack.log(reader) == []
        record = stack.redis.hgetall(stack.keys.record(reader.request_id))
        assert record[Field.STATE.encode()] == b"CANCELLED"
        assert reader.prompt.encode() not in b" ".join(record.values())


def test_an_idempotency_key_while_its_worker_is_dead(stack: Stack) -> None:
    """Whoever asks again, streaming or not, gets the first request's whole text."""
    prompts = [f"once {n}" for n in range(STREAMS)]
    first: list[tuple[str, str] | None] = [None] * STREAMS

    def ask(n: int, frontend: Frontend, stream: bool) -> tuple[str, str]:
        body = {"model": MODEL, "prompt": prompts[n], "max_tokens": 120, "stream": stream}
        headers = {"idempotency-key": f"recovered-{n}"}
        if not stream:
            status, _, answer = frontend.request("POST", "/v1/completions", body, headers)
            assert status == 200, answer
            return answer["id"], answer["choices"][0]["text"]
        events = [data for _, data in frontend.events("POST", "/v1/completions", body, headers)]
        chunks = [json.loads(data) for data in events if data != "[DONE]"]
        text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
        return chunks[0]["id"], text

    def ask_first(n: int) -> None:
        first[n] = ask(n, stack.frontends[0], stream=n % 2 == 0)

    threads = [threading.Thread(target=ask_first, args=(n,)) for n in range(STREAMS)]
    for thread in threads:
        thread.start()
    kill_worker(stack.busiest())
    again = _one_after_the_other(lambda n: ask(n, stack.frontends[1], stream=n % 3 == 0))
    for thread in threads:
        thread.join(60)
    assert again == first
    texts = undisturbed(prompts, 120)
    assert [one and one[1] for one in first] == texts
