"""The files that one chat enters: what a person must read to follow it. It may shrink, and not grow."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from dynamo_tasks.runtime.inspect import snapshot
from tests.support import web
from tests.support.processes import ROOT, Frontend, Worker, together, until
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow
MOST = 66
CHAT = {"model": "mocker", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": True}


def _signal(folder: Path, pids: list[int]) -> set[str]:
    """Begin to note, or end it; gives what was noted."""
    for pid in pids:
        (folder / str(pid)).unlink(missing_ok=True)
        os.kill(pid, signal.SIGRTMIN)
    until(lambda: all((folder / str(pid)).exists() for pid in pids), 30, "they heed the signal")
    return {line for pid in pids for line in (folder / str(pid)).read_text().splitlines()}


def test_one_chat_enters_few_files(redis_server: RedisServer, tmp_path: Path) -> None:
    env = {
        "DYNAMO_NAMESPACE": "entered",
        "ENTERED_FILES": str(tmp_path),
        "PYTHONPATH": f"{ROOT / 'tests/support/entered'}:{ROOT}",
    }
    with together(
        Worker(redis_server.url, settings=("Worker.engine=mocker",), env=env),
        Frontend(redis_server.url, env=env),
    ) as (worker, frontend):
        for _ in range(3):  # what is done once in a process is done
            list(web.events(frontend.port, "POST", "/v1/chat/completions", CHAT))
        [instance] = snapshot(redis_server.url, "entered")["instances"]
        assert instance["pid"] == worker.pid
        assert _signal(tmp_path, [worker.pid, frontend.pid]) == {"begun"}
        list(web.events(frontend.port, "POST", "/v1/chat/completions", CHAT))
        entered = _signal(tmp_path, [worker.pid, frontend.pid])
    assert len(entered) <= MOST, "\n".join(sorted(entered))
    assert any(path.endswith("frontend/sse.py") for path in entered), entered
    assert any(path.endswith("execution/attempt.py") for path in entered), entered
