"""Whatever one client sends, the others are served: ``/live`` beside each body that takes long to read."""

from __future__ import annotations

import contextlib
import http.client
import inspect
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.own_engine import make_tokenizer
from tests.support.processes import ROOT, Frontend, Process, Worker, environment, together
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
    env: dict[str, str]


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
        yield Door(frontend, worker, environment(redis_server.url, **env))
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


SMALL = _dump({"model": "own", "prompt": "x", "max_tokens": 1})
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


def _sent(frontend: Frontend, path: str, body: bytes) -> int:
    """Send a body, and read the answer without understanding it: parsing one would hold up the probe's own thread."""
    connection = http.client.HTTPConnection("127.0.0.1", frontend.port, timeout=120)
    with contextlib.closing(connection):
        connection.request("POST", path, body)
        answer = connection.getresponse()
        while answer.read(1 << 16):
            pass
        return answer.status


class Probe:
    """Asks for ``/live``, or sends a small request, again and again.

    Takes the time of each answer, without what the machine made the processes wait for a core: that is not their own.
    """

    def __init__(self, frontend: Frontend, *others: Process, body: bytes | None = None):
        self.times: list[float] = []
        self._tasks = [Path(f"/proc/{process.pid}/task") for process in (frontend, *others)]
        self._ask = ("GET", "/live") if body is None else ("POST", TEXT, body)
        self._connection = http.client.HTTPConnection("127.0.0.1", frontend.port, timeout=60)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        waited = self._waited()
        while not self._stop.is_set():
            began = time.perf_counter()
            self._connection.request(*self._ask)
            answer = self._connection.getresponse()
            answer.read()
            assert answer.status == 200
            took = time.perf_counter() - began
            before, waited = waited, self._waited()
            self.times.append(max(0.0, took - max(0.0, waited - before)))
            self._stop.wait(0.002)

    def _waited(self) -> float:
        """Seconds that threads of the process, and this one, could have run and had no core."""
        places = [place for tasks in self._tasks for place in tasks.glob("*/schedstat")]
        places.append(Path("/proc/thread-self/schedstat"))
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


QUICK = ("a prompt of 9.9 MB", "lists")
LIVE = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ATTACKS]


@pytest.mark.parametrize("attack", LIVE)
def test_live_answers_beside(door: Door, attack: str) -> None:
    path, body, expected = ATTACKS[attack]()

    def measure() -> float:
        found: set[int] = set()

        def send() -> None:
            found.add(_sent(door.frontend, path, body))

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


DELAYED = """
import sys
from dynamo_tasks.errors import ContextLengthError
from workers.agg import Worker
for payload in ({"prompt": "the quick brown fox, " * 470_000}, {"prompt": "a" * 9_900_000},
                {"messages": [{"role": "user", "content": "hello " * 400}] * 4000}):
    try:
        Worker.generate.delay({**payload, "max_tokens": 1}).get(timeout=60)
    except ContextLengthError:
        continue
    sys.exit("it was taken")
"""
QUEUED: dict[str, bytes | None] = {
    "a prompt of 9.9 MB, of a script": None,
    "inputs": _dump({"model": "own", "input": [WORDS * 8] * 256}),
    "choices of a long prompt": _dump({"model": "own", "prompt": [7] * 8000, "n": 128, "max_tokens": 2}),
    "an echo of a long prompt": _dump(
        {"model": "own", "prompt": [7] * 8000, "n": 64, "max_tokens": 0, "echo": True}
    ),
    "stops": _dump(
        {
            "model": "own",
            "prompt": "x",
            "stop": ["a" * 1000 + str(number) for number in range(16)],
            "max_tokens": 4000,
        }
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", QUEUED)
def test_the_worker_serves_others_beside(door: Door, attack: str) -> None:
    """Its loop renews its lease, too: three seconds at most may pass there."""
    body = QUEUED[attack]

    def send() -> None:
        if body is not None:
            path = EMBED if attack == "inputs" else TEXT
            assert _sent(door.frontend, path, body) == 200
        else:
            subprocess.run([sys.executable, "-c", DELAYED], env=door.env, cwd=ROOT, check=True, timeout=120)

    def measure() -> float:
        with Probe(door.frontend, door.worker, body=SMALL) as probe, ThreadPoolExecutor(2) as pool:
            for sent in [pool.submit(send) for _ in range(2)]:
                sent.result()
        return max(probe.times)

    in_time(measure, 1.0)
