"""Tensor parallel over two processes: one engine core, two workers, and none of them outlives the worker process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks.tiny_model import make_tiny_model
from dynamo_tasks.runtime.inspect import snapshot
from dynamo_tasks.store.client import close_shared
from tests.support.processes import Frontend, Worker, until
from tests.support.server import RedisServer
from tests.vllm.conftest import ENGINE_ARGS
from tests.vllm.test_vllm_serve import COMPLETIONS, GREEDY, PROMPT, START_S, children_of, gone

ARGS = {**ENGINE_ARGS, "max_num_seqs": 8, "tensor_parallel_size": 2}


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="each of its two workers needs a core")
def test_two_workers_serve_as_one_and_die_as_one(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    model = make_tiny_model(tmp_path / "even", size="even")
    settings = (
        f"Worker.model={model}", "Worker.served_model_name=tiny",
        *(f"Worker.engine_args.{name}={json.dumps(value).strip(chr(34))}" for name, value in ARGS.items()),
    )  # fmt: skip
    server = RedisServer(tmp_path_factory.mktemp("tp")).start()
    env = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}  # vLLM finds no core for the second one by itself
    try:
        with Worker(server.url, settings=settings, name="tp", wait=False, env=env) as worker:
            worker.wait_ready(START_S)
            with Frontend(server.url) as frontend:
                body = {**GREEDY, "prompt": PROMPT, "max_tokens": 40}
                found = [frontend.request("POST", COMPLETIONS, body)[2] for _ in range(2)]
                assert found[0]["usage"]["completion_tokens"] == 40
                assert found[0]["choices"][0]["text"] == found[1]["choices"][0]["text"] != ""
                family = children_of(worker)
                titles = [" ".join(one.cmdline()) for one in family]
                for title in ("VLLM::EngineCore", "VLLM::Worker_TP0", "VLLM::Worker_TP1"):
                    assert sum(title in one for one in titles) == 1, titles
                worker.kill()
                assert gone(family, 2.0), "vLLM's processes outlived their worker"
                until(lambda: not snapshot(server.url)["instances"], what="it is gone from the registry")
    finally:
        close_shared(server.url)
        server.stop()
