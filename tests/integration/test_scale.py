"""``dynamo-tasks scale``: what is wanted is followed, kept, and bounded."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import until
from tests.support.serve import Serve, typed

MOCKER = ("--Worker.engine=mocker", "--Worker.engine_args.token_delay_ms=10")


def row(home: Path, component: str = "dynamo.Worker") -> dict[str, Any]:
    done = typed(home, "scale", component, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    return dict(found)


def settled(home: Path, number: int) -> bool:
    found = row(home)
    return (found["ready"], found["starting"], found["draining"]) == (number, 0, 0)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with Serve(tmp_path_factory.mktemp("home"), *MOCKER) as serve:
        yield serve


def test_a_number_is_followed_and_the_least_loaded_goes(served: Serve) -> None:
    home = served.home
    assert typed(home, "scale", "dynamo.Worker", "2").stdout == "dynamo.Worker: 2 wanted\n"
    until(lambda: settled(home, 2), 30, "two workers")
    answer = served.post(
        "/v1/completions", {"model": "mocker", "prompt": "a", "max_tokens": 300, "stream": True}
    )
    until(lambda: sum(one["in_flight"] for one in served.instances()) == 1, 30, "one that is busy")
    (busy,) = [one for one in served.instances() if one["in_flight"]]
    typed(home, "scale", "dynamo.Worker", "1")
    until(lambda: len(served.instances()) == 1, 30, "one worker")
    assert served.instances()[0]["instance_id"] == busy["instance_id"]
    assert answer.read().endswith(b"data: [DONE]\n\n")

    typed(home, "scale", "dynamo.Worker", "auto")
    assert (row(home)["wanted"], row(home)["by"]) == (1, "configuration")


@pytest.mark.slow
def test_one_that_dies_is_replaced(served: Serve) -> None:
    typed(served.home, "scale", "dynamo.Worker", "1")
    (one,) = served.instances()
    os.kill(one["pid"], signal.SIGKILL)
    until(lambda: [two["pid"] for two in served.instances()] not in ([], [one["pid"]]), 30, "another one")


def test_what_is_wrong_is_said_in_one_line(served: Serve) -> None:
    for arguments, text in [
        (["dynamo.Work", "2"], "did you mean 'dynamo.Worker'?"),
        (["dynamo.Worker", "many"], "must be a number of instances"),
        (["Worker", "1"], "NAMESPACE.COMPONENT"),
    ]:
        done = typed(served.home, "scale", *arguments)
        assert done.returncode == 2
        assert text in done.stderr


@pytest.mark.slow
def test_what_is_wanted_outlives_serve_and_has_bounds(tmp_path: Path) -> None:
    bounds = ("--Worker.scale.max=2",)
    with Serve(tmp_path, *MOCKER, *bounds) as serve:
        done = typed(tmp_path, "scale", "dynamo.Worker", "3")
        assert (done.returncode, done.stderr) == (
            2,
            "Error: Worker: 3 instances are not allowed; its `scale` allows 1 to 2\n",
        )
        typed(tmp_path, "scale", "dynamo.Worker", "2")
        until(lambda: settled(tmp_path, 2), 30, "two workers")
        serve.kill()
    with Serve(tmp_path, *MOCKER, *bounds):
        until(lambda: settled(tmp_path, 2), 30, "two workers again")
        assert row(tmp_path)["by"] == "hand"


@pytest.mark.slow
def test_a_worker_waits_for_a_device(tmp_path: Path) -> None:
    gpu = "--Worker.ServiceArgs.resources.gpu=1"
    with Serve(tmp_path, *MOCKER, gpu, DYNAMO_FAKE_GPUS="1"):
        typed(tmp_path, "scale", "dynamo.Worker", "2")
        until(lambda: "waits for a free device" in row(tmp_path)["note"], 30, "what it waits for")
        assert "waits for a free device" in typed(tmp_path, "status").stdout
        typed(tmp_path, "scale", "dynamo.Worker", "1")
        until(lambda: not row(tmp_path)["note"], 30, "nothing to wait for")
        assert settled(tmp_path, 1)


PLANNED = """
Worker:
  engine: mocker
  engine_args: {token_delay_ms: 20, max_num_seqs: 1}
  scale: {min: 1, max: 2}
  planner: {policy: load, interval: 0.5, ttft: 0.5, cool_down: 2, start_up: 2}
"""


@pytest.mark.slow
def test_a_planner_follows_the_load_and_a_hand_goes_before_it(tmp_path: Path) -> None:
    (tmp_path / "planned.yaml").write_text(PLANNED)
    with Serve(tmp_path / "home", "-f", str(tmp_path / "planned.yaml")) as serve:
        home = serve.home
        until(lambda: settled(home, 1), 30, "one worker")
        body = {"model": "mocker", "prompt": "a", "max_tokens": 60, "stream": True}
        answers = [serve.post("/v1/completions", body) for _ in range(12)]
        until(lambda: (row(home)["wanted"], row(home)["by"]) == (2, "planner"), 30, "two are wanted")
        assert all(answer.read().endswith(b"data: [DONE]\n\n") for answer in answers)
        until(lambda: settled(home, 1), 60, "one worker again")

        typed(home, "scale", "dynamo.Worker", "2")
        until(lambda: settled(home, 2), 30, "two by hand")
        assert row(home)["by"] == "hand"
        typed(home, "scale", "dynamo.Worker", "auto")
        until(lambda: settled(home, 1), 60, "one by the planner")


def test_a_planner_is_checked_before_anything_starts(tmp_path: Path) -> None:
    for setting, text in [
        ("--Worker.planner.policy=lod", "no planner policy 'lod'; did you mean 'load'?"),
        ("--Worker.planner.tft=1", "has no setting 'tft'"),
        ("--Worker.scale.mn=1", "has no key 'mn'"),
    ]:
        done = typed(tmp_path, "serve", "--dry-run", setting)
        assert done.returncode == 2
        assert text in done.stderr
