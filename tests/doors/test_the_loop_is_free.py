"""Whatever one client sends, the others are served: ``/live`` beside each body that takes long to read."""

from __future__ import annotations

import contextlib
import http.client
import inspect
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.own_engine import make_tokenizer
from tests.support.processes import Frontend, Worker, together
from tests.support.promises import in_time
from tests.support.server import RedisServer

CHAT, TEXT, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
SIZE = 9_900_000
LIMIT = 0.05
WORDS = "the quick brown fox jumps over the lazy dog, and nobody counts its legs. "


@dataclass
class Door:
    frontend: Frontend
    worker: Worker


@pytest.fixture(scope="module")
def door(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(
        folder, inspect.getsource(json) + inspect.getsource(http.client) + inspect.getsource(inspect)
    )
    env = {"DYNAMO_NAMESPACE": "loop-is-free"}
    settings = (
        "Worker.engine=tests.support.own_engine:OwnEngine", f"Worker.model={folder}", "Worker.served_model_name=own",
        "Worker.engine_args.max_model_len=8192",
    )  # fmt: skip
    with together(
        Worker(redis_server.url, settings=settings, env=env),
        Frontend(redis_server.url, env=env),
    ) as (worker, frontend):
        yield Door(frontend, worker)
        assert worker.alive
        assert "Traceback" not in worker.output + frontend.output


def _raw(head: str, item: str, tail: str = "]}", size: int = SIZE) -> bytes:
    """``head``, then as many items as there is room for."""
    times = (size - len(head) - len(tail)) // (len(item) + 1)
    return (head + ",".join([item] * times) + tail).encode()


def _user(content: str) -> dict[str, Any]:
    return {"model": "own", "messages": [{"role": "user", "content": content}], "max_tokens": 1}


def _call(arguments: str) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"model": "own", "messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}


def _dump(body: Any) -> bytes:
    return json.dumps(body).encode()


ATTACKS: dict[str, Callable[[], tuple[str, bytes, set[int]]]] = {
    "a prompt of 9.9 MB": lambda: (CHAT, _dump(_user(WORDS * (SIZE // len(WORDS)))), {400}),
    "a text of one letter": lambda: (TEXT, _dump({"model": "own", "prompt": "a" * SIZE}), {400}),
    "a prompt that nearly fits": lambda: (
        TEXT, _dump({"model": "own", "prompt": WORDS * 1500, "max_tokens": 1}), {400},
    ),
    "a text full of commas": lambda: (TEXT, _dump({"model": "own", "prompt": ",:[{" * (SIZE // 4)}), {400}),
    "a text full of quotes": lambda: (TEXT, _dump({"model": "own", "prompt": '",' * (SIZE // 3)}), {400}),
    "lists": lambda: (CHAT, _raw('{"model":"own","x":[', "[]"), {400}),
    "objects": lambda: (CHAT, _raw('{"model":"own","tools":[', "{}"), {400}),
    "members": lambda: (
        CHAT, ("{" + ",".join(f'"{i}":1' for i in range(SIZE // 12)) + "}").encode(), {400},
    ),
    "token ids": lambda: (TEXT, _raw('{"model":"own","prompt":[', "1"), {400}),
    "token ids that may be decoded": lambda: (TEXT, _raw('{"model":"own","prompt":[', "12", size=1_490_000), {400}),
    "numbers in an unknown field": lambda: (
        CHAT, _raw('{"model":"own","messages":[{"role":"user","content":"x"}],"x":[', "0.5", size=1_990_000), {200},
    ),
    "messages": lambda: (
        CHAT, _dump({**_user("x"), "messages": [{"role": "user", "content": WORDS * 30}] * 4096}), {400},
    ),
    "arguments of a call": lambda: (CHAT, _dump(_call("[" + ",".join(["[]"] * (SIZE // 3)) + "]")), {400}),
    "inputs": lambda: (EMBED, _dump({"model": "own", "input": [WORDS * 8] * 256}), {200}),
    "vectors": lambda: (EMBED, _dump({"model": "own", "input": ["x"] * 128, "dimensions": 8192}), {200}),
    "an answer of many choices": lambda: (
        TEXT, _dump({"model": "own", "prompt": "x", "n": 128, "max_tokens": 1000}), {200},
    ),
    "many prompts": lambda: (TEXT, _dump({"model": "own", "prompt": [WORDS] * 1024, "max_tokens": 1}), {200}),
}  # fmt: skip


class Probe:
    """Asks for ``/live`` again and again.

    Takes the time of each answer, without what the machine made the process wait for a core: that is not its own.
    """

    def __init__(self, process: Frontend):
        self.times: list[float] = []
        self._tasks = Path(f"/proc/{process.pid}/task")
        self._connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=60)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        waited = self._waited()
        while not self._stop.is_set():
            began = time.perf_counter()
            self._connection.request("GET", "/live")
            self._connection.getresponse().read()
            took = time.perf_counter() - began
            before, waited = waited, self._waited()
            self.times.append(max(0.0, took - max(0.0, waited - before)))
            self._stop.wait(0.002)

    def _waited(self) -> float:
        """Seconds that threads of the process, and this one, could have run and had no core."""
        places = [*self._tasks.glob("*/schedstat"), Path("/proc/thread-self/schedstat")]
        found = 0
        for place in places:
            with contextlib.suppress(OSError):  # a thread that has ended
                found += int(place.read_text().split()[1])
        return found / 1e9

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.times, n=100)[-1]


@pytest.mark.parametrize("attack", ATTACKS)
def test_live_answers_beside(door: Door, attack: str) -> None:
    path, body, expected = ATTACKS[attack]()

    def measure() -> float:
        found: set[int] = set()

        def send() -> None:
            found.add(door.frontend.request("POST", path, body)[0])

        with Probe(door.frontend) as probe:
            while len(probe.times) < 150:
                senders = [threading.Thread(target=send) for _ in range(2)]
                for sender in senders:
                    sender.start()
                for sender in senders:
                    sender.join()
        assert found == expected
        return probe.p99

    in_time(measure, LIMIT)
