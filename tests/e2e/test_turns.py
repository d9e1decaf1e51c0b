"""Models that share one device by turns: one is awake, the others sleep or have no process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import until
from tests.support.serve import typed
from tests.support.server import RedisServer
from tests.support.turns import Turns

MOCKER = (
    "--Worker.engine=mocker", "--Worker.engine_args.token_delay_ms=5", "--Worker.engine_args.sleep_s=0.3",
    "--Worker.scale.turn=1",
)  # fmt: skip


def ask(turns: Turns, model: str, tokens: int = 10, **more: object) -> httpx.Response:
    body = {"model": model, "prompt": "abc", "max_tokens": tokens, **more}
    return httpx.post(f"{turns.http.base_url}/v1/completions", json=body, timeout=120)


def state(turns: Turns, model: str) -> str:
    listed: list[dict[str, Any]] = httpx.get(f"{turns.http.base_url}/v1/models").json()["data"]
    return next((str(one["state"]) for one in listed if one["id"] == model), "")


@pytest.fixture(scope="module")
def turns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Turns]:
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("redis")
    with (
        RedisServer(folder) as server,
        Turns(server, home, {"small": (), "large": ()}, *MOCKER) as made,
    ):
        until(lambda: state(made, "small") and state(made, "large"), 60, "both models are listed")
        yield made
    assert made.wrong == []


def test_they_take_turns_and_their_processes_stay(turns: Turns) -> None:
    assert ask(turns, "small").status_code == 200
    assert ask(turns, "large").status_code == 200
    until(lambda: state(turns, "small") == "asleep", 30, "small sleeps")
    (first,) = turns.workers("small")
    assert ask(turns, "small").status_code == 200
    assert turns.workers("small") == [first], "it was woken, and not started"
    turns.until_asleep("large")
    shown = typed(turns.home, "scale", DYNAMO_REDIS_URL=turns.server.url).stdout
    assert "turns of 1 s on gpu0" in shown
    assert "asleep" in typed(turns.home, "status", DYNAMO_REDIS_URL=turns.server.url).stdout


@pytest.mark.slow
def test_nobody_starves(turns: Turns) -> None:
    """One model has more to do than it can in its turn: the other one still gets its own."""
    with ThreadPoolExecutor(8) as pool:
        flood = [pool.submit(ask, turns, "large", 400) for _ in range(8)]
        until(lambda: turns.fleet("large")["running"] == 1, 60, "large runs")
        until(lambda: ask(turns, "small").status_code == 200, 60, "small is served")
        assert [one.result().json()["usage"]["completion_tokens"] for one in flood] == [400] * 8


@pytest.mark.slow
def test_a_hand_takes_the_device_and_gives_it_back(turns: Turns) -> None:
    env = {"DYNAMO_REDIS_URL": turns.server.url}
    typed(turns.home, "scale", "dynamo.small", "1", **env)
    refused = typed(turns.home, "scale", "dynamo.large", "1", **env)
    assert (refused.returncode, "small has their device by hand" in refused.stderr) == (2, True)
    until(lambda: turns.fleet("small")["running"] == 1, 60, "small runs")
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(ask, turns, "large")
        until(lambda: state(turns, "large") == "asleep", 30, "large waits")
        typed(turns.home, "scale", "dynamo.small", "auto", **env)
        assert waits.result().status_code == 200


@pytest.mark.slow
def test_a_model_that_is_turned_off_does_not_sleep_on(turns: Turns) -> None:
    env = {"DYNAMO_REDIS_URL": turns.server.url}
    assert [ask(turns, model).status_code for model in ("small", "large")] == [200, 200]
    turns.until_asleep("small")
    typed(turns.home, "scale", "dynamo.small", "0", **env)
    until(lambda: not turns.workers("small"), 30, "its process has ended")
    assert state(turns, "small") == ""
    typed(turns.home, "scale", "dynamo.small", "auto", **env)
    until(lambda: state(turns, "small") == "idle", 30, "it is listed again")
    assert ask(turns, "small").status_code == 200


@pytest.mark.slow
def test_one_that_dies_asleep_is_started_at_its_next_turn(turns: Turns) -> None:
    assert [ask(turns, model).status_code for model in ("small", "large")] == [200, 200]
    turns.until_asleep("small")
    assert turns.kill_worker("small")
    until(lambda: not turns.workers("small"), 30, "nobody starts it again")
    assert ask(turns, "large").status_code == 200
    assert turns.workers("small") == []
    assert ask(turns, "small").status_code == 200


@pytest.mark.slow
def test_who_is_waited_for_by_people_goes_before_batch_work(own_server: RedisServer, tmp_path: Path) -> None:
    """The turn of a model that has batch work alone ends early, and its requests wait again, with what they have."""
    settings = (*MOCKER[:-1], "--Worker.scale.turn=60")
    with (
        Turns(own_server, tmp_path, {"small": (), "large": ()}, *settings) as turns,
        ThreadPoolExecutor(8) as pool,
    ):
        until(lambda: state(turns, "small") and state(turns, "large"), 60, "both models are listed")
        batch = [pool.submit(ask, turns, "large", 6000, service_tier="flex") for _ in range(4)]
        until(lambda: turns.fleet("large")["running"] == 1, 60, "large runs")
        assert ask(turns, "small").status_code == 200
        assert not any(one.done() for one in batch), "it did not wait for them"
        assert [one.result().json()["usage"]["completion_tokens"] for one in batch] == [6000] * 4
        assert turns.wrong == []
