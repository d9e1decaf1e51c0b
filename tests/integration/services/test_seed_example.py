"""The example and the YAML files of Dynamo's documentation, as they stand; GPUs and namespaces of one ``serve``."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Worker, together, until
from tests.support.serve import Serve, processes_of, typed
from tests.support.server import RedisServer, free_port

HERE = "tests.integration.services"
FAKE = {"DYNAMO_FAKE_GPUS": "4", "CUDA_VISIBLE_DEVICES": "1,2,3"}


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    config = tmp_path_factory.mktemp("config") / "agg.yaml"
    config.write_text("VllmWorker:\n  model_path: mocker\n")
    home = tmp_path_factory.mktemp("home")
    arguments = (f"{HERE}.seed_example:Processor", "-f", str(config), "--service-name", "VllmWorker")
    with Serve(home, *arguments, "--service-name", "Processor", DYNAMO_FAKE_GPUS="1") as serve:
        yield serve


def test_the_example_runs_with_only_its_imports_changed(example: Serve) -> None:
    request = json.dumps({"prompt": "你好", "max_tokens": 5})
    done = example.cli("call", "dynamo.Processor.process", request)
    assert done.returncode == 0, done.stderr
    assert done.stdout == typed(example.home, "call", "dynamo.VllmWorker.generate", request).stdout
    assert len(done.stdout) > 5


def test_the_state_file_says_what_runs(example: Serve) -> None:
    path = example.home / "serve" / f"{example.pid}.json"
    state = json.loads(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600
    assert state["graph"] == f"{HERE}.seed_example:Processor"
    assert state["namespaces"] == ["dynamo"]
    assert "redis://:***@" in state["redis_url"]
    worker, processor = state["processes"]
    assert (worker["name"], worker["service"], worker["gpus"]) == ("VllmWorker-0", "VllmWorker", "0")
    assert "gpus" not in processor
    assert {row["pid"] for row in state["processes"]} == {one["pid"] for one in example.instances()}
    os.kill(worker["pid"], signal.SIGKILL)
    until(lambda: json.loads(path.read_text())["processes"][0]["restarts"] == 1, 30, "the state is renewed")


def _post(url: str, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(url, data=b"{}", headers={"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, None


def test_namespaces_side_by_side_and_gpus_through_an_outer_mask(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Serve(home, f"{HERE}.graph_namespaces:Both", **FAKE) as serve:
        answers = [row for _ in range(12) for row in json.loads(serve.post("/ask", None).read())]
        left = {row["gpus"] for row in answers if row["side"] == "left"}
        assert left <= {"1", "2"}
        assert {row["gpus"] for row in answers if row["side"] == "right"} == {"3"}
        (state,) = [json.loads(path.read_text()) for path in (home / "serve").iterdir()]
        assert [row.get("gpus") for row in state["processes"]] == ["1", "2", "3", None]
        assert state["processes"][-1]["port"] == serve.port
        assert {one["namespace"] for one in serve.instances()} == {"left", "right"}
        serve.interrupt()
    assert not list((home / "serve").iterdir())
    assert not list(home.glob("gpus-*.json"))
    until(lambda: not processes_of(home), 30, "no process left")


def test_a_component_that_is_not_the_entry_serves_its_http_methods_too(tmp_path: Path) -> None:
    port = free_port()
    arguments = (f"--Right.ServiceArgs.http.port={port}", "--api-key", "k1")
    with Serve(tmp_path, f"{HERE}.graph_namespaces:Both", *arguments, **FAKE) as serve:
        assert "Right-0  * ready" in serve.output
        instances = serve.instances()
        key = {"Authorization": "Bearer k1"}
        right, *left = sorted(instances, key=lambda one: one["namespace"], reverse=True)
        assert right["http"] == f"http://127.0.0.1:{port}"
        assert _post(f"{right['http']}/right", **key) == (
            200,
            {"pid": right["pid"], "url": "its own business"},
        )
        assert _post(f"{right['http']}/right") == (401, None)
        assert len({one["http"] for one in left}) == 2
        for one in left:
            assert _post(f"{one['http']}/left", **key) == (200, {"pid": one["pid"]})
        assert right["http"] in typed(tmp_path, "status").stdout


@pytest.mark.slow
def test_a_component_without_endpoints_serves_http_alone(tmp_path: Path) -> None:
    with Serve(tmp_path, f"{HERE}.graph_http:Entry", "--service", "Alone") as serve:
        assert serve.line("ready ").startswith("ready      Alone (")
        (path,) = (tmp_path / "serve").iterdir()
        (row,) = json.loads(path.read_text())["processes"]
        assert _post(f"http://127.0.0.1:{row['port']}/ask") == (200, "alone")
        assert serve.instances() == []


@pytest.mark.parametrize(
    ("arguments", "env", "text"),
    [
        ((), {"DYNAMO_FAKE_GPUS": "2"}, "2.5 GPUs are asked for"),
        (("--require-gpu",), {"DYNAMO_FAKE_GPUS": "0"}, "no GPU can be seen on this host"),
        (("--Left.ServiceArgs.resources.gpu=1.5",), FAKE, "a whole number, or a share below 1"),
    ],
)
def test_gpus_that_cannot_be_given_are_an_error(
    tmp_path: Path, arguments: tuple[str, ...], env: dict[str, str], text: str
) -> None:
    done = typed(tmp_path, "serve", f"{HERE}.graph_namespaces:Both", "--dry-run", *arguments, **env)
    assert done.returncode == 2
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_without_any_gpu_it_warns_and_starts_unpinned(tmp_path: Path) -> None:
    with Serve(tmp_path, f"{HERE}.graph_namespaces:Right", DYNAMO_FAKE_GPUS="0") as serve:
        assert json.loads(typed(tmp_path, "call", "right.Left.who", "{}").stdout)["gpus"] is None
        assert "no GPU can be seen on this host: Right-0 starts unpinned" in serve.output


def test_a_bare_worker_takes_what_is_free(redis_server: RedisServer, tmp_path: Path) -> None:
    env = {"DYNAMO_HOME": str(tmp_path), "DYNAMO_FAKE_GPUS": "2", "DYNAMO_NAMESPACE": "bare-gpus"}

    def worker(name: str, **more: Any) -> Worker:
        return Worker(redis_server.url, service=f"{HERE}.graph_namespaces:Left", name=name, env=env, **more)

    with together(worker("a"), worker("b")) as (one, two):
        seen = {until(lambda w=w: _gpus(w.output), what="the start event") for w in (one, two)}
        assert seen == {"0", "1"}
        with worker("c", wait=False) as third:
            assert third.popen.wait(20) == 2
            assert "1 GPUs are asked for (Left: 1), but 2 can be seen" in third.output


def _gpus(output: str) -> str:
    return output.partition("gpus=")[2].partition("\n")[0].split(" ")[0] if "gpus=" in output else ""
