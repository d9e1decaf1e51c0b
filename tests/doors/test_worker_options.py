"""What is given to a worker on its command line happens."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from tests.support.processes import ROOT, Worker, environment, until
from tests.support.queue import SERVICE, Lab
from tests.support.server import RedisServer

CELERY = str(Path(sys.executable).parent / "celery")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("worker")


@pytest.fixture(scope="module")
def lab(redis_server: RedisServer) -> Iterator[Lab]:
    made = Lab(redis_server, "optioned")
    made.stale = made.call("echo", "of yesterday")  # type: ignore[attr-defined]
    yield made
    made.close()


@pytest.fixture(scope="module")
def worker(lab: Lab, folder: Path) -> Iterator[Worker]:
    options = (
        "-c", "2", "--prefetch-multiplier", "4", "--disable-prefetch", "-O", "fair", "--without-gossip",
        "--without-mingle", "--heartbeat-interval", "1", "-E", "--purge",
        "--time-limit", "1.5", "--soft-time-limit", "0.5",
        "--pidfile", str(folder / "%n.pid"), "--statedb", str(folder / "state"), "-Q", lab.queue,
    )  # fmt: skip
    with lab.worker(*options) as process:
        yield process


def stats(lab: Lab) -> dict[str, Any]:
    answers = lab.app.control.broadcast(
        "stats", reply=True, timeout=10, limit=1, pattern="optioned@*", matcher="glob"
    )
    return next(iter(answers[0].values()))  # type: ignore[no-any-return]


def test_purge_ends_what_waited(lab: Lab, worker: Worker) -> None:
    assert lab.state(lab.stale.id) == "CANCELLED"  # type: ignore[attr-defined]


def test_time_limits_of_the_worker_hold(lab: Lab, worker: Worker) -> None:
    assert lab.call("soft_wait", {}).get(timeout=20) == "caught"
    with pytest.raises(SoftTimeLimitExceeded):
        lab.call("count", {"n": 100, "delay": 0.1}).get(timeout=20)
    assert lab.call("echo", 1, soft_time_limit=20).get(timeout=20) == 1
    with pytest.raises(TimeLimitExceeded):
        lab.call("count", {"n": 100, "delay": 0.1}, soft_time_limit=60).get(timeout=20)


def test_no_more_than_the_slots_is_taken(lab: Lab, worker: Worker) -> None:
    assert stats(lab)["prefetch_count"] == 2
    limits = {"soft_time_limit": 30, "time_limit": 60}
    calls = [lab.call("count", {"n": 4, "delay": 0.1}, **limits) for _ in range(5)]
    until(lambda: sum(lab.state(call.id) == "RUNNING" for call in calls) == 2, what="two that run")
    assert lab.length() >= 1
    assert [call.get(timeout=20) for call in calls] == [[0, 1, 2, 3]] * 5


def test_files_of_the_worker(lab: Lab, worker: Worker, folder: Path) -> None:
    assert int((folder / "optioned.pid").read_text()) == worker.pid
    lab.app.control.revoke("somebody")
    stats(lab)
    worker.terminate(30)
    assert not (folder / "optioned.pid").exists()
    assert list(folder.glob("state*"))


@pytest.mark.slow
def test_celery_multi_starts_and_stops_it(redis_server: RedisServer, tmp_path: Path) -> None:
    lab = Lab(redis_server, "multiplied")
    files = [f"--pidfile={tmp_path}/%n.pid", f"--logfile={tmp_path}/%n.log"]
    env = environment(redis_server.url, LAB_NAMESPACE="multiplied")

    def multi(command: str, *more: str) -> None:
        argv = [CELERY, "multi", command, "one", "-A", "dynamo_tasks", *files, *more]
        subprocess.run(argv, env=env, cwd=ROOT, timeout=120, check=True, capture_output=True)

    multi("start", "--loglevel=INFO", f"--service={SERVICE}")
    try:
        assert lab.call("echo", 1).get(timeout=60) == 1
    finally:
        multi("stopwait")
    assert "ready." in (tmp_path / "one.log").read_text()
    assert not (tmp_path / "one.pid").exists()
    lab.close()
