"""``celery -A dynamo_tasks …``: the default graph, its options, beat and flower."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks.queue.app import create_app
from tests.support.processes import Flower, Process, Worker, environment, together, until
from tests.support.queue import SERVICE, Lab
from tests.support.server import RedisServer, free_port


def celery(url: str, *arguments: str, name: str, **env: str) -> Process:
    argv = [sys.executable, "-m", "celery", "-A", "dynamo_tasks", *arguments]
    return Process(argv, environment(url, **env), name=name)


@pytest.fixture(scope="module")
def lab(redis_server: RedisServer) -> Iterator[Lab]:
    made = Lab(redis_server, "commands")
    yield made
    made.close()


@pytest.mark.parametrize(
    "how",
    [
        "default",
        pytest.param("graph", marks=pytest.mark.slow),
        pytest.param("options", marks=pytest.mark.slow),
    ],
)
def test_the_default_graph_and_its_options(redis_server: RedisServer, tmp_path: Path, how: str) -> None:
    namespace = f"graph-{how}"
    config, log = tmp_path / "graph.yaml", tmp_path / "worker.log"
    config.write_text("Worker:\n  engine: mocker\n")
    env, arguments, settings = {"DYNAMO_NAMESPACE": namespace}, ["--concurrency", "3"], ()
    if how == "graph":
        env |= {"DYNAMO_GRAPH": "workers.agg:Frontend", "DYNAMO_CONFIG": str(config)}
    if how == "options":
        arguments += ["--config", str(config), "-f", str(log)]
        settings = ("Worker.engine_args.token_delay_ms=1",)
    service = "workers.agg:Worker" if how == "options" else ""
    app = create_app(f"cli_{how}", server_url=redis_server.url, make_host=lambda *_, **__: None)
    with Worker(
        redis_server.url, *arguments, service=service, settings=settings, env=env, name=how, wait=False,
        program="celery",
    ) as worker:  # fmt: skip
        until(
            lambda: "ready." in (log.read_text() if log.exists() else worker.output) or not worker.alive, 20
        )
        stats = app.control.inspect(destination=[node(app, how)], timeout=30).stats()
        assert next(iter(stats.values()))["pool"]["max-concurrency"] == 3
        queues = app.control.inspect(destination=[node(app, how)], timeout=30).active_queues()
        assert f"{namespace}|Worker" in {queue["name"] for queue in next(iter(queues.values()))}
        assert f"{namespace}.Worker.generate" in next(
            iter(app.control.inspect(destination=[node(app, how)], timeout=30).registered().values())
        )
    app.close()


def node(app: Any, name: str) -> str:
    """The full name of a worker."""
    return until(
        lambda: next((n for n in app.control.inspect(timeout=0.5).ping() or {} if n.startswith(name)), None)
    )


def test_queues_are_chosen_with_q(lab: Lab) -> None:
    with lab.worker("-Q", f"{lab.queue},mine", name="chosen"):
        queues = lab.app.control.inspect(destination=[node(lab.app, "chosen")], timeout=30).active_queues()
        names = {queue["name"] for queue in next(iter(queues.values()))}
        # The queues of its instances come along: what is announced there is consumed.
        assert {name for name in names if not name.startswith(f"{lab.queue}.")} == {lab.queue, "mine"}
        assert lab.call("echo", 1).get(timeout=30) == 1


BEAT = """
from tests.support.services_queue import app, NAMESPACE
app.conf.beat_schedule = {
    "every": {
        "task": f"{NAMESPACE}.Lab.echo", "schedule": 0.2, "args": ({"from": "beat"},),
        "options": {"queue": f"{NAMESPACE}|Lab"},
    }
}
"""


def test_beat_fires_an_entry_at_an_endpoint(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "scheduled.py").write_text(BEAT)
    env = environment(lab.server.url, LAB_NAMESPACE=lab.namespace)
    env["PYTHONPATH"] += f":{tmp_path}"
    argv = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "scheduled",
        "beat",
        "-s",
        str(tmp_path / "beat"),
        "-l",
        "info",
    ]
    argv += ["--max-interval", "1"]
    with together(
        lab.worker(name="beaten"),
        Process(argv, env, name="beat"),
    ) as (worker, beat):
        until(lambda: worker.output.count("signal task_postrun") >= 2 or not beat.alive, what="two runs")
        assert beat.alive, beat.output
        ids = [line.split()[3] for line in worker.output.splitlines() if "signal task_postrun" in line]
        assert lab.state(ids[0]) == "SUCCEEDED"


def test_flower_shows_worker_and_tasks(lab: Lab) -> None:
    with together(
        lab.worker("-E", name="flowered"),
        Flower(lab.server.url, FLOWER_UNAUTHENTICATED_API="true"),
    ) as (_, flower):

        def api(path: str) -> Any:
            status, found = flower.get(f"/api/{path}")
            return found if status == 200 else {}

        until(lambda: any("flowered" in name for name in api("workers?refresh=1")), 30, lambda: flower.output)
        result = lab.call("echo", 1)
        assert result.get(timeout=30) == 1
        task = until(lambda: api("tasks").get(result.id), what="the task")
        until(lambda: api("tasks")[result.id]["state"] == "SUCCESS", what="its success")
        assert task["name"] == f"{lab.namespace}.Lab.echo"


def test_without_a_server_one_line_and_exit_code_2() -> None:
    with celery(f"redis://127.0.0.1:{free_port()}/0", "worker", "--service", SERVICE, name="none") as worker:
        assert worker.popen.wait(20) == 2
        assert "cannot reach the Redis server" in worker.output
        assert "Traceback" not in worker.output
