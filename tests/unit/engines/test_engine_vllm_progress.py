"""Phases of vLLM's start, from the log of a process of its own to the one that waits."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys

import pytest

from dynamo_tasks.engines.vllm import progress as vllm_progress
from dynamo_tasks.engines.vllm.progress import Progress

# Two processes of one engine say nearly the same, at a log level at which nobody would see it.
CORE = """
import logging.config, runpy, sys
runpy.run_path(sys.argv[1])["begin"]()
logging.config.dictConfig({
    "version": 1, "disable_existing_loggers": False, "handlers": {"out": {"class": "logging.StreamHandler"}},
    "loggers": {"vllm": {"handlers": ["out"], "level": "WARNING", "propagate": False}},
})
runner = logging.getLogger("vllm.v1.worker.gpu_model_runner")
for _ in range(2):
    runner.info("Starting to load model %s...", "tiny")
    runner.info("Using FlashAttention")
    runner.info("Model loading took %s GiB memory and %.6f seconds", 1, 2.0)
logging.getLogger("vllm.v1.core.kv_cache_utils").info("%s KV cache size: %s tokens", "GPU", 1000)
runner.info("Starting to load model %s...", "tiny")
"""


def _run(environ: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-c", CORE, vllm_progress.__file__], env=environ, check=True,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_each_phase_is_reported_once() -> None:
    told: list[str] = []

    async def work() -> None:
        with Progress(told.append):
            assert await asyncio.to_thread(_run, dict(os.environ)) == ""

    asyncio.run(work())
    assert told == ["weights", "profile", "warmup"]
    assert vllm_progress._VARIABLE not in os.environ


def test_nobody_listens() -> None:
    assert _run({**os.environ, vllm_progress._VARIABLE: "dynamo-tasks-nobody"}) == ""


def test_without_an_address_no_logger_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(vllm_progress._VARIABLE, raising=False)
    vllm_progress.begin()
    for name in vllm_progress._STEPS:
        assert type(logging.getLogger(name)) is logging.Logger
