"""The files that one chat enters: what a person must read to follow it. It may shrink, and not grow.

The connection is there already, as in a client's pool: what serves its begin is not counted.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
from pathlib import Path

import pytest

from dynamo_tasks.runtime.inspect import snapshot
from tests.support.processes import ROOT, Frontend, Worker, together, until
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow
MOST = 67
CHAT = {"model": "mocker", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": True}


def _signal(folder: Path, pids: list[int]) -> set[str]:
    """Begin to note, or end it; gives what was noted."""
    for pid in pids:
        (folder / str(pid)).unlink(missing_ok=True)
        os.kill(pid, signal.SIGRTMIN)
    until(lambda: all((folder / str(pid)).exists() for pid in pids), 30, "they heed the signal")
    return {line for pid in pids for line in (folder / str(pid)).read_text().splitlines()}


def _chat(connection: http.client.HTTPConnection) -> None:
    connection.request("POST", "/v1/chat/completions", json.dumps(CHAT), {"content-type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.read().endswith(b"data: [DONE]\n\n")


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
        connection = http.client.HTTPConnection("127.0.0.1", frontend.port, timeout=30)
        for _ in range(3):  # what is done once in a process is done
            _chat(connection)
        [instance] = snapshot(redis_server.url, "entered")["instances"]
        assert instance["pid"] == worker.pid
        rounds = []
        # What timers do, and readers that leave a while after the end, is in one round or the other.
        for _ in range(3):
            assert _signal(tmp_path, [worker.pid, frontend.pid]) == {"begun"}
            _chat(connection)
            rounds.append(_signal(tmp_path, [worker.pid, frontend.pid]))
        entered = set.intersection(*rounds)
        connection.close()
    assert len(entered) <= MOST, "\n".join(sorted(entered))
    assert any(path.endswith("frontend/sse.py") for path in entered), entered
    assert any(path.endswith("execution/attempt.py") for path in entered), entered
