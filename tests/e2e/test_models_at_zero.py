"""Models that need no instance: listed, asked for, started, and gone again when nobody asks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.batches import chat_line
from tests.support.processes import ROOT, until
from tests.support.serve import Serve, typed
from tests.support.server import RedisServer

AT_ZERO = (
    "--Worker.engine=mocker",
    "--Worker.engine_args.token_delay_ms=2",
    "--Worker.engine_args.startup_s=1",
    "--Worker.scale.min=0",
)
CHAT = {"model": "mocker", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 30}


def row(home: Path, **env: str) -> dict[str, Any]:
    done = typed(home, "scale", "dynamo.Worker", "--json", **env)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    return dict(found)


def rests(home: Path, **env: str) -> bool:
    found = row(home, **env)
    return (found["wanted"], found["ready"], found["starting"], found["draining"]) == (0, 0, 0, 0)


def ran(code: str, env: dict[str, str]) -> str:
    """What a program prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def client_of(served: Serve) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.base_url}/v1", api_key="x", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with Serve(tmp_path_factory.mktemp("home"), *AT_ZERO, "--Worker.scale.idle=1") as serve:
        yield serve


def test_a_cold_start(served: Serve) -> None:
    (listed,) = httpx.get(f"{served.base_url}/v1/models").json()["data"]
    assert (listed["id"], listed["state"]) == ("mocker", "idle")
    assert httpx.get(f"{served.base_url}/v1/models/mocker").json()["id"] == "mocker"
    assert served.instances() == []
    lines: list[str] = []
    with httpx.stream(
        "POST", f"{served.base_url}/v1/chat/completions", json={**CHAT, "stream": True}, timeout=60
    ) as answer:
        request = httpx.get(f"{served.base_url}/v1/requests/{answer.headers['x-request-id']}").json()
        assert (request["status"], request["position"]) == ("queued", 1)
        assert request["reason"] == "the model is starting: no worker runs yet"
        lines += answer.iter_lines()
    assert lines[0] == ": queued position=1 reason=the model is starting: no worker runs yet"
    assert lines[-2] == "data: [DONE]"
    until(lambda: rests(served.home), 30, "no worker")


@pytest.mark.slow
def test_clients_see_nothing_of_it(served: Serve) -> None:
    client = client_of(served)
    until(lambda: rests(served.home), 30, "no worker")
    cold = "".join(
        chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**CHAT, stream=True)
    )
    warm = client.chat.completions.create(**CHAT).choices[0].message.content
    assert cold == warm
    assert len(cold) == 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", CHAT),
        ("completions", {"model": "mocker", "prompt": "abc", "max_tokens": 5}),
        ("responses", {"model": "mocker", "input": "Hello", "max_output_tokens": 16}),
        (
            "messages",
            {"model": "mocker", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5},
        ),
        ("embeddings", {"model": "mocker", "input": "abc"}),
    ],
)
def test_every_api_starts_it(served: Serve, path: str, body: dict[str, Any]) -> None:
    until(lambda: rests(served.home), 30, "no worker")
    answer = httpx.post(f"{served.base_url}/v1/{path}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text


@pytest.mark.slow
def test_a_batch_starts_it(served: Serve) -> None:
    client = client_of(served)
    until(lambda: rests(served.home), 30, "no worker")
    text = "\n".join(json.dumps(chat_line(f"q{n}", f"question {n}")) for n in range(20))
    file = client.files.create(file=("lines.jsonl", text.encode()), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    until(lambda: client.batches.retrieve(made.id).status == "completed", 60, "the batch")
    assert client.batches.retrieve(made.id).request_counts.completed == 20


@pytest.mark.slow
def test_the_client_may_leave(served: Serve) -> None:
    until(lambda: rests(served.home), 30, "no worker")
    body = {**CHAT, "stream": True, "abandon_after": 60}
    with httpx.stream("POST", f"{served.base_url}/v1/chat/completions", json=body, timeout=60) as answer:
        request_id = answer.headers["x-request-id"]
    again = httpx.get(f"{served.base_url}/v1/requests/{request_id}/stream", timeout=60)
    assert again.text.endswith("data: [DONE]\n\n")
    assert httpx.get(f"{served.base_url}/v1/requests/{request_id}").json()["status"] == "succeeded"


@pytest.mark.slow
def test_a_deadline_before_its_start_is_refused_once_a_start_was_seen(served: Serve) -> None:
    client_of(served).chat.completions.create(**CHAT)
    until(lambda: rests(served.home), 30, "no worker")
    answer = httpx.post(f"{served.base_url}/v1/chat/completions", json={**CHAT, "timeout": 0.5}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "deadline_unreachable")


@pytest.mark.slow
def test_a_hand_goes_before_requests(served: Serve) -> None:
    typed(served.home, "scale", "dynamo.Worker", "0")
    until(lambda: rests(served.home), 30, "no worker")
    until(lambda: httpx.get(f"{served.base_url}/v1/models").json()["data"] == [], 30, "no model")
    answer = httpx.post(f"{served.base_url}/v1/chat/completions", json=CHAT, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_instances")
    typed(served.home, "scale", "dynamo.Worker", "auto")
    until(lambda: httpx.get(f"{served.base_url}/v1/models").json()["data"], 30, "a model")
    assert httpx.post(f"{served.base_url}/v1/chat/completions", json=CHAT, timeout=60).status_code == 200


@pytest.mark.slow
def test_what_came_while_serve_was_down_is_served(tmp_path: Path, redis_server: RedisServer) -> None:
    url = redis_server.url.removesuffix("/0") + "/5"
    env = {"DYNAMO_REDIS_URL": url}
    with Serve(tmp_path, *AT_ZERO, "--Worker.scale.idle=60", **env):
        until(lambda: rests(tmp_path, **env), 30, "no worker")
    request_id = ran(
        "from workers.agg import Worker; print(Worker.generate.delay({'prompt': 'abc'}).id)", env
    )
    with Serve(tmp_path, *AT_ZERO, "--Worker.scale.idle=60", **env):
        get = f"from dynamo_tasks import StreamResult; print(StreamResult({request_id!r}).get(timeout=60)['usage'])"
        assert "'completion_tokens': 128" in ran(get, env)


@pytest.mark.slow
def test_one_that_cannot_start_says_so(tmp_path: Path) -> None:
    broken = "--Worker.ServiceArgs.envs.PYTHONHOME=/nowhere"
    with Serve(tmp_path, *AT_ZERO, "--Worker.scale.idle=60", broken) as serve:
        began = time.monotonic()
        answer = httpx.post(f"{serve.base_url}/v1/chat/completions", json=CHAT, timeout=90)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_started"), answer.text
        assert time.monotonic() - began < 60
        assert row(tmp_path)["failed"]
        models = f"{serve.base_url}/v1/models"
        until(lambda: httpx.get(models).json()["data"][0]["state"] == "unavailable", 30, "its state")
        later = httpx.post(f"{serve.base_url}/v1/chat/completions", json=CHAT, timeout=90)
        assert later.json()["error"]["code"] == "not_started"
        assert serve.alive


@pytest.mark.slow
def test_serve_may_be_killed_meanwhile(tmp_path: Path, redis_server: RedisServer) -> None:
    env = {"DYNAMO_REDIS_URL": redis_server.url.removesuffix("/0") + "/6"}
    with Serve(tmp_path, *AT_ZERO, "--Worker.scale.idle=60", **env) as serve:
        body = {**CHAT, "stream": True, "abandon_after": 60}
        with httpx.stream("POST", f"{serve.base_url}/v1/chat/completions", json=body, timeout=60) as answer:
            request_id = answer.headers["x-request-id"]
            serve.signal(signal.SIGKILL)
    with Serve(tmp_path, *AT_ZERO, "--Worker.scale.idle=60", **env) as serve:
        again = httpx.get(f"{serve.base_url}/v1/requests/{request_id}/stream", timeout=60)
        assert again.text.endswith("data: [DONE]\n\n")
