"""A worker whose loop hangs; requests that kill their worker each time, and the list where they end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks.errors import WorkerLostError
from tests.support.processes import ROOT, Worker, environment, together, until
from tests.support.queue import Lab
from tests.support.server import RedisServer


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with RedisServer(tmp_path_factory.mktemp("attempts")) as server:
        made = Lab(server, "attempts")
        yield made
        made.close()


@pytest.fixture(scope="module")
def workers(lab: Lab) -> Iterator[list[Worker]]:
    with together(*(lab.worker(name=f"w{i}") for i in range(4))) as found:
        yield list(found)


def _dead(lab: Lab, *arguments: str) -> str:
    argv = [sys.executable, "-m", "dynamo_tasks", "dead", *arguments]
    env = environment(lab.server.url)
    done = subprocess.run(argv, env=env, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout if done.returncode == 0 else f"exit {done.returncode}: {done.stderr}"


def test_block_loop(lab: Lab, workers: list[Worker]) -> None:
    """A loop that blocks for longer than its lease has lost what ran on it, and writes nothing when it is free."""
    result = lab.call("block", {"n": 40, "seconds": 4.0})
    assert list(result) == list(range(40))
    assert lab.record(result.id)["attempts"] == "2"
    until(lambda: any("lease.lost" in worker.output for worker in workers), what="the zombie noticed")
    log = lab.events(result.id)
    assert lab.call("echo", 1).get(timeout=30) == 1
    assert lab.events(result.id) == log


@pytest.mark.slow
def test_a_poison_request_ends_and_can_be_tried_again(
    lab: Lab, workers: list[Worker], tmp_path: Path
) -> None:
    antidote = tmp_path / "antidote"
    request: dict[str, Any] = {"antidote": str(antidote)}
    result = lab.call("poison", request, link_error=lab.plain("note"))
    with pytest.raises(WorkerLostError, match="lost its worker 3 times"):
        result.get(timeout=30)
    (survivor,) = [worker for worker in workers if worker.alive]
    record = lab.record(result.id)
    assert (record["state"], record["attempts"]) == ("FAILED", "3")
    until(lambda: "LAB note" in survivor.output, what="Celery's completion")
    until(lambda: lab.record(result.id)["settled"] == "1", what="settled")

    (row,) = json.loads(_dead(lab, "list", "--json"))
    assert (row["id"], row["attempts"]) == (result.id, 3)
    assert result.id in _dead(lab, "list")
    shown = json.loads(_dead(lab, "show", result.id))
    assert (shown["payload"], shown["error"]) == (request, "the request lost its worker 3 times")
    assert "exit 2: Error: no request 'nobody'" in _dead(lab, "retry", "nobody")

    antidote.touch()
    assert _dead(lab, "retry", result.id) == "queued again: 1\n"
    lab.reaches(result.id, "SUCCEEDED")
    assert json.loads(_dead(lab, "list", "--json")) == []
    assert sum(b"e" in fields for _, fields in lab.events(result.id)) == 1
