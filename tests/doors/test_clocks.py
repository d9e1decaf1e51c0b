"""Machines whose clocks are an hour apart: what is left of a time travels, never a moment by somebody's clock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Frontend, Worker, environment, until
from tests.support.queue import Lab
from tests.support.readers import MODEL, PACED
from tests.support.server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.doors]
libfaketime = pytest.importorskip("libfaketime")
KEY = "one-key"
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}


def _clock(offset: str) -> dict[str, str]:
    """The environment of a process whose wall clock is that far off; intervals stay what they are."""
    library, *_ = Path(libfaketime.__file__).parent.rglob("libfaketime.so*")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": offset,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "0",
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("clocks")) as server:
        yield server


@pytest.fixture(scope="module", params=[("+3600", "-3600"), ("-3600", "+3600")], ids=["ahead", "behind"])
def fleet(request: pytest.FixtureRequest, server: RedisServer) -> Iterator[tuple[Worker, Frontend]]:
    worker, frontend = request.param
    with ExitStack() as entered:
        one = entered.enter_context(Worker(server.url, settings=PACED, env=_clock(worker)))
        http = entered.enter_context(Frontend(server.url, env=_clock(frontend)))
        yield one, http


def test_a_timeout_is_as_long_as_it_says(fleet: tuple[Worker, Frontend]) -> None:
    _, http = fleet
    status, _, body = http.request("POST", "/v1/chat/completions", {**CHAT, "timeout": 100})
    assert (status, body.get("usage", {}).get("completion_tokens")) == (200, 20), body
    status, _, body = http.request("POST", "/v1/chat/completions", {**CHAT, "timeout": 1, "max_tokens": 5000})
    assert (status, body["error"]["code"]) == (504, "deadline_exceeded"), body


def test_a_streams_deadline_too(fleet: tuple[Worker, Frontend]) -> None:
    _, http = fleet
    events = list(http.events("POST", "/v1/chat/completions", {**CHAT, "timeout": 100, "stream": True}))
    assert events[-1][1] == "[DONE]"


def test_a_stream_token_is_good_for_as_long_as_it_says(server: RedisServer) -> None:
    """Whoever of the frontends gave it, and whoever is asked for the stream."""
    env = {"DYNAMO_API_KEYS": KEY}
    auth = {"Authorization": f"Bearer {KEY}"}
    with ExitStack() as entered:
        entered.enter_context(Worker(server.url, settings=PACED))
        clocks = [_clock("+3600"), _clock("-3600"), {}]
        frontends = [entered.enter_context(Frontend(server.url, env={**env, **clock})) for clock in clocks]
        asked = frontends[0].request(
            "POST", "/v1/chat/completions", {**CHAT, "background": True}, headers=auth
        )
        path = f"/v1/requests/{asked[2]['id'].removeprefix('chatcmpl-')}/stream"
        for giver in frontends:
            urls = {
                seconds: giver.request("POST", f"{path}-token", {"expires_in": seconds}, headers=auth)[2][
                    "stream"
                ]
                for seconds in (1, 300)
            }
            for taker in frontends:
                assert list(taker.events("GET", urls[300]))[-1][1] == "[DONE]"
            for taker in frontends:
                until(lambda taker=taker, url=urls[1]: taker.request("GET", url)[0] == 401, 20)


@pytest.mark.parametrize("offset", ["+3600", "-3600"])
def test_what_celery_counts_from_now(offset: str, server: RedisServer) -> None:
    """countdown, expires, deadline and retries of a worker that is off; publishing from here."""
    lab = Lab(server, f"clock{offset[1:]}{'ab'[offset < ',']}")
    with lab.worker(env=_clock(offset)):
        assert lab.call("count", {"n": 3}, deadline=60, expires=60).get(timeout=30) == [0, 1, 2]
        assert lab.call("count", {"n": 3}, countdown=0.5).get(timeout=30) == [0, 1, 2]
        late = lab.call("count", {"n": 3}, countdown=2.0, expires=1.0)
        lab.reaches(late.id, "EXPIRED", 30)
        again = lab.call("flaky", {"until": 2, "countdown": 0.3})
        until(lambda: lab.state(again.id) in ("SUCCEEDED", "FAILED"), 30)
        assert lab.state(again.id) == "SUCCEEDED", lab.record(again.id)
    lab.close()


ASKED = """
import sys
from dynamo_tasks import StreamResult
print(StreamResult(sys.argv[1]).state, StreamResult(sys.argv[1]).get(timeout=30), StreamResult(sys.argv[1]).ready())
"""


@pytest.mark.parametrize("offset", ["+3600", "-3600"])
def test_a_result_that_celery_has_no_more_is_reported_at_once(offset: str, server: RedisServer) -> None:
    """By whoever asks: the ledger has it."""
    lab = Lab(server, f"told{offset[1:]}{'ab'[offset < ',']}")
    with lab.worker():
        called = lab.call("count", {"n": 3})
        assert called.get(timeout=30) == [0, 1, 2]
        until(lambda: called.record().settled, 30)
    assert lab.redis.delete(f"celery-task-meta-{called.id}") == 1
    asked = subprocess.run(
        [sys.executable, "-c", ASKED, called.id], env=environment(server.url, **_clock(offset)),
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert asked.stdout == "SUCCESS [0, 1, 2] True\n", asked
    lab.close()
