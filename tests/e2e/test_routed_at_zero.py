"""The routed graph whose workers are at zero: a Router stands between, and chooses once somebody is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import until
from tests.support.serve import Serve, typed

pytestmark = pytest.mark.slow

AT_ZERO = (
    "workers.routed:Frontend",
    "--Worker.engine=mocker",
    "--Worker.engine_args.token_delay_ms=2",
    "--Worker.engine_args.startup_s=1",
    "--Worker.scale.min=0",
    "--Worker.scale.idle=1",
)
CHAT = {"model": "mocker", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 30}


def rests(served: Serve, component: str = "Worker") -> bool:
    """Return whether none of it runs, and the frontend knows that no worker does."""
    (one,) = json.loads(typed(served.home, "scale", f"dynamo.{component}", "--json").stdout)
    (listed,) = httpx.get(f"{served.base_url}/v1/models").json()["data"]
    there = (one["wanted"], one["ready"], one["starting"], one["draining"])
    return there == (0, 0, 0, 0) and (listed["id"], listed["state"]) == ("mocker", "idle")


def text_of(served: Serve, **more: Any) -> str:
    answer = httpx.post(f"{served.base_url}/v1/chat/completions", json={**CHAT, **more}, timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


@pytest.fixture(scope="module", params=["round_robin", "kv"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    home = tmp_path_factory.mktemp("home")
    with Serve(
        home, *AT_ZERO, f"--Router.router_mode={request.param}", "--Worker.ServiceArgs.workers=2"
    ) as made:
        yield made


def test_a_cold_start_through_a_router(served: Serve) -> None:
    for _ in range(2):
        until(lambda: rests(served), 30, "no worker")
        with ThreadPoolExecutor(8) as pool:
            cold = {*pool.map(lambda _: text_of(served), range(8))}
        assert cold == {text_of(served)}


def test_a_stream_says_why_it_waits(served: Serve) -> None:
    until(lambda: rests(served), 30, "no worker")
    body = {**CHAT, "stream": True}
    with httpx.stream("POST", f"{served.base_url}/v1/chat/completions", json=body, timeout=60) as answer:
        lines = [*answer.iter_lines()]
    assert ": queued position=1 reason=the model is starting: no worker runs yet" in lines, lines[:12]
    assert lines[-2] == "data: [DONE]"


def test_the_router_goes_to_zero_too(tmp_path: Path) -> None:
    """Neither of them runs; a request starts the Router, which hands it on, and that starts a Worker."""
    with Serve(tmp_path, *AT_ZERO, "--Router.scale.min=0", "--Router.scale.idle=1") as served:
        for _ in range(2):
            until(lambda: rests(served) and rests(served, "Router"), 30, "neither runs")
            assert served.instances() == []
            assert len(text_of(served)) == 30
