"""A worker dies or hangs in mid-stream: another one continues each text; nothing lost, repeated or reordered."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import threading
import time

from dynamo_tasks.engines import create_engine
from tests.support.processes import Frontend, Worker, until
from tests.support.server import RedisServer

PACED = ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=20")
TOKENS = 100


class Reader(threading.Thread):
    """Reads one streaming completion and notes when what came."""

    def __init__(self, frontend: Frontend, prompt: str):
        super().__init__(daemon=True)
        self._frontend = frontend
        self.prompt = prompt
        self.ids: list[str] = []
        self.times: list[float] = []
        self.text = ""
        self.finish: str | None = None
        self.done = False

    def run(self) -> None:
        body = {"model": "mocker", "prompt": self.prompt, "max_tokens": TOKENS, "stream": True}
        for event_id, data in self._frontend.events("POST", "/v1/completions", body):
            if data == "[DONE]":
                self.done = True
                continue
            for choice in json.loads(data).get("choices", ()):
                self.text += choice["text"]
                self.finish = choice["finish_reason"] or self.finish
            self.ids.append(event_id)
            self.times.append(time.monotonic())

    def gap(self, after: float) -> float:
        """Longest silence that ended behind a moment."""
        pairs = zip(self.times, self.times[1:], strict=False)
        return max((b - a for a, b in pairs if b > after), default=0.0)


def _whole(prompts: list[str]) -> list[str]:
    """The uninterrupted texts, from an engine without delays."""

    async def generate() -> list[str]:
        engine = await create_engine("mocker")
        out = []
        for prompt in prompts:
            deltas = engine.generate({"prompt": prompt, "max_tokens": TOKENS})
            out.append("".join([delta.text async for delta in deltas]))
        await engine.stop()
        return out

    return asyncio.run(generate())


def _start(frontend: Frontend, n: int) -> list[Reader]:
    readers = [Reader(frontend, f"prompt {i}") for i in range(n)]
    for reader in readers:
        reader.start()
    until(lambda: all(len(reader.times) >= 10 for reader in readers), what="all streams run")
    return readers


def _check(readers: list[Reader]) -> None:
    texts = _whole([reader.prompt for reader in readers])
    for i, reader in enumerate(readers):
        reader.join(30)
        assert (reader.done, reader.finish) == (True, "length"), (i, reader.text)
        assert reader.text == texts[i]
        parsed = [tuple(map(int, event_id.split("-"))) for event_id in reader.ids if event_id]
        assert parsed == sorted(set(parsed))


def test_kill_worker(own_server: RedisServer) -> None:
    url = own_server.url
    with (
        Worker(url, settings=PACED, name="a") as one,
        Worker(url, settings=PACED, name="b"),
        Frontend(url) as http,
    ):
        readers = _start(http, 8)
        at = time.monotonic()
        one.kill()
        _check(readers)
        gaps = sorted(reader.gap(at) for reader in readers)
        assert statistics.median(gaps) <= 1.0, gaps
        assert gaps[-1] > 0.2, "nobody was hit"


def test_freeze_worker(own_server: RedisServer) -> None:
    url = own_server.url
    with (
        Worker(url, settings=PACED, name="a") as one,
        Worker(url, settings=PACED, name="b"),
        Frontend(url) as http,
    ):
        readers = _start(http, 8)
        at = time.monotonic()
        os.kill(one.pid, signal.SIGSTOP)
        for reader in readers:
            reader.join(30)
        os.kill(one.pid, signal.SIGCONT)
        _check(readers)
        assert max(reader.gap(at) for reader in readers) <= 4.0
        # The zombie has come back as a worker.
        again = _start(http, 4)
        _check(again)
        assert one.alive, one.output
