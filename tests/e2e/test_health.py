"""Probes and the list of models, while instances come and go."""

from __future__ import annotations

import time

from tests.support.processes import Frontend, Worker, until
from tests.support.promises import in_time
from tests.support.server import RedisServer

ENV = {"DYNAMO_NAMESPACE": "health"}
MOCKER = ("Worker.engine=mocker",)
ASK = {"model": "mocker", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]}


def test_health_follows_the_instances(redis_server: RedisServer) -> None:
    settings = ("Worker.ServiceArgs.workers=2",)
    with Frontend(redis_server.url, env=ENV, ready="/live", settings=settings) as http:
        assert http.get("/health") == (503, {"status": "unhealthy", "reason": "no instance serves"})
        assert http.get("/ready")[0] == 503
        assert http.get("/v1/models")[1]["data"] == []
        status, headers, body = http.request("POST", "/v1/chat/completions", ASK)
        assert (status, body["error"]["code"]) == (503, "no_instances")
        assert int(headers["retry-after"]) >= 1

        with Worker(redis_server.url, env=ENV, settings=MOCKER) as first:
            until(lambda: http.get("/health")[0] == 200, 30, "healthy with one instance")
            assert [model["id"] for model in http.get("/v1/models")[1]["data"]] == ["mocker"]
            status, detail = http.get("/ready")
            assert (status, detail["components"]["health.Worker"]) == (503, {"instances": 1, "expected": 2})
            in_time(lambda: _an_orderly_leave(redis_server, http), 2)
            assert http.get("/health")[0] == 200
            _metrics(http)
            first.terminate()
            in_time(lambda: _without_the_last(redis_server, http), 5)
            assert http.get("/health")[0] == 503


def _an_orderly_leave(server: RedisServer, http: Frontend) -> float:
    """Seconds until it is seen that one of two has left."""
    with Worker(server.url, env=ENV, settings=MOCKER, name="second") as second:
        until(lambda: http.get("/ready")[0] == 200, 30, "ready with two")
        second.terminate()
        left = time.monotonic()
        until(lambda: http.get("/ready")[0] == 503, 30, "one has left")
    return time.monotonic() - left


def _without_the_last(server: RedisServer, http: Frontend) -> float:
    """Seconds until the model goes with its last instance, which is killed."""
    with Worker(server.url, env=ENV, settings=MOCKER, name="last") as last:
        until(lambda: http.get("/v1/models")[1]["data"], 30, "its model")
        last.kill()
        killed = time.monotonic()
        until(lambda: http.get("/v1/models")[1]["data"] == [], 30, "the model goes")
    return time.monotonic() - killed


def _metrics(http: Frontend) -> None:
    assert http.request("POST", "/v1/chat/completions", ASK)[0] == 200
    text = http.get("/metrics")[1].decode()
    for name in (
        "dynamo_tasks_http_requests_total", "dynamo_tasks_requests_submitted_total",
        'dynamo_tasks_instances{endpoint="health.Worker.generate"}',
    ):  # fmt: skip
        assert any(line.startswith(name) and float(line.split()[-1]) >= 1 for line in text.splitlines()), text
    assert 'dynamo_tasks_engine_running{model="mocker"}' in text
