"""Frontend, queue and workers with the real engine: the APIs, batches, aborts, and what is killed goes on.

The last tests kill; each leaves a worker behind for the next one.
"""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks import DistributedRuntime
from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.runtime.inspect import snapshot
from dynamo_tasks.store.client import close_shared
from tests.support.processes import Frontend, Worker, until
from tests.support.server import RedisServer
from tests.vllm.conftest import ENGINE_ARGS

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PROMPT = "The quick brown fox jumps over the lazy dog, again and again, until the evening comes."
GREEDY = {"model": "tiny", "temperature": 0, "ignore_eos": True}
START_S = 240.0


def settings(model: Path) -> tuple[str, ...]:
    args = {**ENGINE_ARGS, "max_model_len": 1024}
    return (
        f"Worker.model={model}",
        "Worker.served_model_name=tiny",
        *(f"Worker.engine_args.{name}={json.dumps(value).strip(chr(34))}" for name, value in args.items()),
    )


@dataclass
class Fleet:
    """A frontend, and workers that are replaced as they are killed."""

    server: RedisServer
    entered: ExitStack
    settings: tuple[str, ...]
    workers: list[Worker] = field(default_factory=list)
    frontend: Frontend = field(init=False)

    def add(self) -> Worker:
        """One more worker; does not wait for it."""
        worker = Worker(
            self.server.url, settings=self.settings, name=f"vllm{len(self.workers)}", wait=False,
        )  # fmt: skip
        self.workers.append(self.entered.enter_context(worker))
        return worker

    def instances(self) -> list[dict[str, Any]]:
        return list(snapshot(self.server.url)["instances"])

    def loaded(self, n: int) -> Worker:
        """The busiest worker once ``n`` requests run."""

        def rows() -> list[dict[str, Any]]:
            found = self.instances()
            return found if sum(row["in_flight"] for row in found) == n else []

        load = {row["pid"]: row["in_flight"] for row in until(rows, what=f"{n} requests run")}
        return max(self.workers, key=lambda one: load.get(one.pid, -1))

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        status, _, answer = self.frontend.request("POST", path, body)
        assert status == 200, answer
        return dict(answer)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Fleet]:
    server = RedisServer(tmp_path_factory.mktemp("vllm")).start()
    with ExitStack() as entered:
        made = Fleet(server, entered, settings(tiny_model))
        workers = [made.add(), made.add()]
        made.frontend = entered.enter_context(Frontend(server.url, ready=""))
        for worker in workers:
            worker.wait_ready(START_S)
        until(lambda: made.frontend.get("/ready")[0] == 200, 30, "the frontend")
        yield made
    close_shared(server.url)
    server.stop()


class Stream(threading.Thread):
    """Reads one streaming completion."""

    def __init__(self, frontend: Frontend, prompt: str, tokens: int, **more: Any):
        super().__init__(daemon=True)
        self._frontend = frontend
        self._body = {**GREEDY, "prompt": prompt, "max_tokens": tokens, "stream": True, **more}
        self.text = ""
        self.finish: str | None = None
        self.error: Any = None
        self.begun = threading.Event()
        self.start()

    def run(self) -> None:
        for _, data in self._frontend.events("POST", COMPLETIONS, self._body):
            if data == "[DONE]":
                return
            chunk = json.loads(data)
            self.error = chunk.get("error", self.error)
            for choice in chunk.get("choices", ()):
                self.text += choice["text"]
                self.finish = choice["finish_reason"] or self.finish
                self.begun.set()

    def result(self, timeout: float = 60) -> tuple[str, str | None]:
        self.join(timeout)
        assert not self.is_alive(), "the stream did not end"
        assert self.error is None
        return self.text, self.finish


def children_of(worker: Worker) -> list[Any]:
    import psutil  # comes with vLLM

    return list(psutil.Process(worker.pid).children(recursive=True))


def gone(processes: list[Any], timeout: float) -> bool:
    import psutil

    _, alive = psutil.wait_procs(processes, timeout)
    return not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def test_models_chat_and_completions(fleet: Fleet) -> None:
    _, listed = fleet.frontend.get("/v1/models")
    assert [(row["id"], row["max_model_len"]) for row in listed["data"]] == [("tiny", 1024)]
    body = {**GREEDY, "messages": [{"role": "user", "content": "Hello! 🙂"}], "max_tokens": 12}
    chat = fleet.ask(CHAT, body)
    assert chat["usage"]["completion_tokens"] == 12
    assert chat["choices"][0]["finish_reason"] == "length"
    streamed = ""
    for _, data in fleet.frontend.events("POST", CHAT, {**body, "stream": True}):
        if data != "[DONE]":
            streamed += json.loads(data)["choices"][0]["delta"].get("content") or ""
    assert streamed == chat["choices"][0]["message"]["content"]
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
    longer = fleet.ask(CHAT, {**body, "tools": tools})
    assert longer["usage"]["prompt_tokens"] > chat["usage"]["prompt_tokens"] + 10
    assert Stream(fleet.frontend, PROMPT, 16).result()[1] == "length"


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        (
            {"prompt": "x " * 700},
            "prompt",
            "context length is 1024 tokens. However, you requested 1417 tokens (1401 in the prompt",
        ),
        ({"prompt": "x", "max_tokens": 5000}, "max_tokens", "context length is 1024 tokens"),
        ({"prompt": "x", "best_of": 2}, "best_of", "does not support best_of"),
        ({"prompt": "x", "logit_bias": {"99999": 1}}, "logit_bias", "not a token of the model"),
    ],
)
def test_bad_requests_are_refused(fleet: Fleet, body: dict[str, Any], param: str, says: str) -> None:
    status, _, answer = fleet.frontend.request("POST", COMPLETIONS, {**GREEDY, **body})
    assert (status, answer["error"]["param"]) == (400, param)
    assert says in answer["error"]["message"]


def test_64_requests_in_one_batch_and_what_is_reported_of_them(fleet: Fleet) -> None:
    streams = [Stream(fleet.frontend, f"{number} {PROMPT}", 200) for number in range(64)]

    def busy() -> bool:
        return sum(row["load"]["running"] for row in fleet.instances()) > 32

    until(busy, 30, "more than 32 sequences run")
    assert all(stream.result()[1] == "length" for stream in streams)
    until(
        lambda: sum(row["load"]["tokens"] for row in fleet.instances()) >= 64 * 200,
        what="tokens are reported",
    )
    until(lambda: not any(row["load"]["running"] for row in fleet.instances()), what="all is calm")
    text = fleet.frontend.get("/metrics")[1].decode()
    assert 'dynamo_tasks_engine_running{model="tiny"}' in text
    assert 'dynamo_tasks_engine_prefix_hits{model="tiny"}' in text


def test_prefix_cache_hits_are_in_the_usage(fleet: Fleet) -> None:
    body = {**GREEDY, "prompt": list(range(500, 600)), "max_tokens": 2}
    for _ in range(3):  # two workers: the third one finds it in any case
        used = fleet.ask(COMPLETIONS, body)["usage"]
    assert used["prompt_tokens_details"]["cached_tokens"] == 96
    until(lambda: any(row["load"]["prefix_hits"] > 0 for row in fleet.instances()), what="hits are reported")


def test_logprobs_in_both_apis(fleet: Fleet) -> None:
    body = {**GREEDY, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    chat = {**body, "logprobs": True, "top_logprobs": 2}
    content = fleet.ask(CHAT, chat)["choices"][0]["logprobs"]["content"]
    assert [sorted(entry) for entry in content] == [["bytes", "logprob", "token", "top_logprobs"]] * 3
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)
    plain = {**GREEDY, "prompt": PROMPT, "max_tokens": 3, "logprobs": 2}
    found = fleet.ask(COMPLETIONS, plain)["choices"][0]["logprobs"]
    assert [len(found[name]) for name in sorted(found)] == [3, 3, 3, 3]
    first, second = found["tokens"][:2]
    assert found["text_offset"] == [0, len(first), len(first) + len(second)]
    assert found["top_logprobs"][0][first] == found["token_logprobs"][0]
    streamed: list[str] = []
    for _, data in fleet.frontend.events("POST", COMPLETIONS, {**plain, "stream": True}):
        if data != "[DONE]":
            streamed += (json.loads(data)["choices"][0]["logprobs"] or {}).get("tokens", [])
    assert streamed == found["tokens"]


def test_a_client_that_leaves_frees_the_engine(fleet: Fleet) -> None:
    body = {**GREEDY, "prompt": PROMPT, "max_tokens": 900, "stream": True, "abandon_after": 0}
    events = fleet.frontend.events("POST", COMPLETIONS, body)
    next(events)
    events.close()
    until(
        lambda: not any(row["in_flight"] or row["load"]["running"] for row in fleet.instances()),
        what="nothing runs",
    )


def test_a_worker_without_sleep_mode_says_so_and_serves_on(fleet: Fleet) -> None:
    async def put_to_sleep() -> None:
        async with await DistributedRuntime.create(fleet.server.url) as runtime:
            await runtime.namespace("dynamo").component("Worker").sleep()

    with pytest.raises(InvalidRequestError, match="was started without enable_sleep_mode"):
        asyncio.run(put_to_sleep())
    assert (
        fleet.ask(COMPLETIONS, {**GREEDY, "prompt": PROMPT, "max_tokens": 2})["usage"]["completion_tokens"]
        == 2
    )


def test_kill_a_worker_and_its_texts_go_on(fleet: Fleet) -> None:
    prompts = [f"{number} {PROMPT}" for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        asked = [{**GREEDY, "prompt": prompt, "max_tokens": 700} for prompt in prompts]
        whole = [a["choices"][0]["text"] for a in pool.map(lambda body: fleet.ask(COMPLETIONS, body), asked)]
    streams = [Stream(fleet.frontend, prompt, 700) for prompt in prompts]
    for stream in streams:
        assert stream.begun.wait(30)
    victim = fleet.loaded(6)
    children = children_of(victim)
    assert len(children) >= 2
    victim.kill()
    assert gone(children, 2.0), "the engine outlived its worker"
    assert [stream.result() for stream in streams] == [(text, "length") for text in whole]
    fleet.add()


def test_kill_an_engine_core_and_its_texts_go_on(fleet: Fleet) -> None:
    whole = fleet.ask(COMPLETIONS, {**GREEDY, "prompt": PROMPT, "max_tokens": 900})["choices"][0]["text"]
    stream = Stream(fleet.frontend, PROMPT, 900)
    assert stream.begun.wait(30)
    victim = fleet.loaded(1)
    children = children_of(victim)
    core = next(child for child in children if "EngineCore" in " ".join(child.cmdline()))
    began = time.monotonic()
    core.send_signal(signal.SIGKILL)
    assert victim.popen.wait(30) == 1
    assert time.monotonic() - began < 15
    assert gone(children, 2.0)
    assert "engine.died" in victim.output
    # The worker that was started before takes it over as soon as it is ready.
    assert stream.result(START_S) == (whole, "length")
    fleet.workers[-1].wait_ready(START_S)
    assert [row["state"] for row in fleet.instances()] == ["healthy"]
