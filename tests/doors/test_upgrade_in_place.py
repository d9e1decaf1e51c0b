"""Another release is installed over the files of a running fleet: each process goes on as the release that it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks.pipelines import RemoteEnvironment
from dynamo_tasks.queue.app import create_app
from tests.support.pipeline_parts import Enrich, Profile
from tests.support.processes import ROOT, Frontend, Worker, until
from tests.support.readers import MODEL, PACED, check, start
from tests.support.server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An installation of its own."""
    for package in ("dynamo_tasks", "workers", "tests", "benchmarks"):
        shutil.copytree(
            ROOT / package, tmp_path / "site" / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path / "site"


def _replace(site: Path) -> None:
    """As an installer does: other files in the place of all, and no bytecode of the old ones."""
    for file in (site / "dynamo_tasks").rglob("*"):
        if file.suffix == ".py":
            file.write_text("raise RuntimeError('this is another release')\n")
        elif file.suffix == ".lua":
            file.write_text("return redis.error_reply('ERR this is another release')\n")
    for cache in list(site.rglob("__pycache__")):
        shutil.rmtree(cache)


@pytest.fixture
def fleet(own_server: RedisServer, site: Path) -> Iterator[tuple[Worker, Worker, Worker, Frontend]]:
    with ExitStack() as entered:
        processes: Any = (
            Worker(own_server.url, settings=PACED, root=site, name="one"),
            Worker(own_server.url, settings=PACED, root=site, name="two"),
            Worker(
                own_server.url,
                service="dynamo_tasks.pipelines.celery.worker:Operators",
                root=site,
                name="ops",
                settings=("Operators.modules=[tests.support.pipeline_parts]",),
            ),
            Frontend(own_server.url, root=site),
        )
        for process in processes:
            entered.enter_context(process)
        yield processes


def test_what_was_not_used_before_is_of_the_same_release(
    own_server: RedisServer, fleet: tuple[Worker, Worker, Worker, Frontend], site: Path
) -> None:
    one, two, ops, http = fleet
    readers = start(http, n=4, tokens=150)
    _replace(site)
    _use_http(http)
    _use_celery(own_server)
    _use_pipelines(own_server)
    one.kill()  # its requests are taken over
    check(readers)
    assert (
        two.terminate(90) == 0
    )  # drained (for 30 s: the background request goes on), requeued, deregistered
    for process in (two, ops, http):
        assert "another release" not in process.output, process.output
        assert "Traceback" not in process.output, process.output


def _use_http(http: Frontend) -> None:
    assert http.request("POST", "/v1/chat/completions", CHAT)[0] == 200
    assert (
        http.request("POST", "/v1/completions", {"model": MODEL, "prompt": "a", "max_tokens": 2, "n": 2})[0]
        == 200
    )
    assert http.request("POST", "/v1/embeddings", {"model": MODEL, "input": ["a", "b"]})[0] == 200
    assert http.request("POST", "/v1/chat/completions", {**CHAT, "max_tokns": 3})[0] == 400
    key = {"Idempotency-Key": "k"}
    ids = {http.request("POST", "/v1/chat/completions", CHAT, key)[1]["x-request-id"] for _ in range(2)}
    [request_id] = ids
    list(http.events("GET", f"/v1/requests/{request_id}/stream"))
    background = {**CHAT, "max_tokens": 5000, "stream": True, "background": True}
    stream = http.events("POST", "/v1/chat/completions", background)
    next(stream)
    for path in ("/health", "/ready", "/metrics", "/openapi.json", f"/v1/requests/{request_id}"):
        assert http.get(path)[0] == 200, path
    assert http.request("DELETE", f"/v1/requests/{request_id}?purge=true")[0] == 200


def _use_pipelines(server: RedisServer) -> None:
    env = RemoteEnvironment("later", {"redis_url": server.url})
    env.register_service("profile", Profile)
    env.from_batch([{"user_id": "a"}, {"user_id": "b"}]).map(Enrich).collect()
    job = env.submit()
    assert len(list(job.results())) == 2, job.status().error
    env.close()


def _use_celery(server: RedisServer) -> None:
    app = create_app("outside", server_url=server.url, make_host=lambda *_, **__: None)
    result = app.send_task(
        "dynamo.Worker.generate",
        args=[{"prompt": "a", "max_tokens": 3}],
        queue="dynamo|Worker",
        countdown=0.2,
    )
    assert result.get(timeout=30)
    assert app.send_task("dynamo.Worker.generate", args=["x"], queue="dynamo|Worker", expires=-1)
    answered = app.control.inspect(timeout=5)
    for ask in (answered.stats, answered.active, answered.registered, answered.active_queues, answered.conf):
        assert until(ask, 30)
    app.close()
