"""Dual mode: the methods of a class over HTTP, BentoML's among them, beside its endpoints in the queue."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.processes import ROOT, Process, Worker, environment, until
from tests.support.serve import Serve
from tests.support.server import RedisServer, free_port

MODULE = "tests.integration.services.dual"
DUAL = f"{MODULE}:Dual"
CLIENT = Path(__file__).with_name("bento_client.py")

pytest.importorskip("_bentoml_sdk", reason="the extra bentoml is not installed")


def ask(url: str, token: str = "") -> dict[str, Any]:
    """The answers that BentoML's own client gets, in a process of its own: it sets up logging and metrics."""
    done = subprocess.run(
        [sys.executable, str(CLIENT), url, token], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


EXPECTED = {
    "greet": "moin Ada", "order": {"item": "TEA", "count": 3}, "size": 5, "letters": ["a", "b", "c"],
    "twice": 24,
    "fail": 500, "async": "moin Bob",
}  # fmt: skip


@pytest.fixture(scope="module")
def dual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    arguments = ("--Dual.greeting=moin", "--api-key", "k1")
    bento = str(tmp_path_factory.mktemp("bento"))
    with Serve(tmp_path_factory.mktemp("home"), DUAL, *arguments, BENTOML_HOME=bento) as serve:
        yield serve


def test_bentomls_client_and_the_queue_reach_the_same_instance(dual: Serve) -> None:
    answers = ask(f"http://127.0.0.1:{dual.port}", "k1")
    batch = answers.pop("batch")
    assert answers == EXPECTED
    assert sorted(text[0] for text in batch) == ["0", "1", "2", "3"]
    state = json.loads(dual.cli("call", "dual.Dual.report", "{}").stdout)
    # One process: our start hook ran once, and BentoML's once.
    assert (state["calls"], state["started"], state["greeting"]) == (2, 11, "moin")
    (shown,) = [one for one in dual.instances() if one["component"] == "Dual"]
    assert shown["pid"] == state["pid"]
    # Its lease is renewed, although it has a method `load` (not the engine's load).
    until(lambda: _lease(dual) > 2, 15.0, "a renewed lease")


def _lease(serve: Serve) -> float:
    return max((one["lease"] for one in serve.instances() if one["component"] == "Dual"), default=0.0)


def test_http_of_both_kinds(dual: Serve) -> None:
    key = {"Authorization": "Bearer k1"}
    assert json.loads(dual.post("/ask", {"number": 1}, **key).read()) == {"number": 2}
    answer = dual.post("/raw", {}, **key, **{"x-what": "42"})
    assert (answer.status, answer.headers["x-answer"], answer.read()) == (200, "42", b"seen")
    assert dual.post("/greet", {"name": "x"}).status == 401
    assert dual.post("/greet", {"nam": "x"}, **key).status == 400
    with ThreadPoolExecutor(4) as pool:
        bodies = [{"texts": [str(number)]} for number in range(4)]
        answers = pool.map(lambda body: json.loads(dual.post("/batch", body, **key).read()), bodies)
    assert [answer[0][0] for answer in answers] == ["0", "1", "2", "3"]


def test_tasks_of_bentoml(dual: Serve) -> None:
    key = {"Authorization": "Bearer k1"}
    submitted = dual.post("/longtask/submit", {"number": 2}, **key)
    assert submitted.status == 200
    task = json.loads(submitted.read())["task_id"]

    def ask(what: str) -> Any:
        url = f"http://127.0.0.1:{dual.port}/longtask/{what}?task_id={task}"
        with urllib.request.urlopen(urllib.request.Request(url, headers=key), timeout=30) as answer:
            return json.loads(answer.read())

    until(lambda: ask("status")["status"] == "completed", 30, "the end of the task")
    assert ask("get") == 6


@pytest.mark.slow
def test_bentoml_serves_the_same_class(redis_server: RedisServer, tmp_path: Path) -> None:
    port = free_port()
    argv = [sys.executable, "-m", "bentoml", "serve", f"{DUAL}.bento", "--port", str(port)]
    env = environment(redis_server.url, BENTOML_HOME=str(tmp_path), BENTOML_DO_NOT_TRACK="True")
    helper = Worker(redis_server.url, service=f"{MODULE}:Helper", name="helper", wait=False)
    with helper, Process(argv, env, name="bentoml") as served:
        until(lambda: "Completed async startup hook" in served.output or not served.alive, 40, "it serves")
        answers = ask(f"http://127.0.0.1:{port}")
        assert {**answers, "batch": []} == {
            **EXPECTED,
            "greet": "hello Ada",
            "async": "hello Bob",
            "batch": [],
        }
        served.terminate(15)


@pytest.mark.slow
def test_bentoml_builds_the_same_class(tmp_path: Path) -> None:
    shutil.copy(CLIENT.with_name("dual.py"), tmp_path / "shop.py")
    env = environment("", BENTOML_HOME=str(tmp_path / "home"), BENTOML_DO_NOT_TRACK="True")
    argv = [sys.executable, "-m", "bentoml", "build", "shop:Dual.bento"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert "Successfully built Bento" in done.stdout, done.stderr
    (bento,) = (tmp_path / "home").glob("bentos/dual/*/bento.yaml")
    built = yaml.safe_load(bento.read_text())
    (config,) = [row["config"] for row in built["services"]]
    assert config["traffic"] == {"timeout": 30, "concurrency": 64, "max_concurrency": 64}
    assert (config["resources"], config["workers"], built["labels"]) == ({"cpu": "1"}, 1, {"team": "x"})
    assert built["envs"] == [{"name": "TONE", "value": "dry", "stage": "all"}]
