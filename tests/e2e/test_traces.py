"""One trace from an HTTP request to the engine, and what both processes count."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamo_tasks.runtime.inspect import snapshot
from tests.support.processes import Frontend, Worker, until
from tests.support.server import RedisServer
from tests.support.traced_service import read_spans

NAMESPACE = "traces-e2e"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
NAMES = ["dynamo.http", "dynamo.submit", "dynamo.run", "dynamo.generate"]
BODY = {"model": "mocker", "prompt": "the same long prompt " * 8, "max_tokens": 2}


@pytest.fixture(scope="module")
def worker(redis_server: RedisServer, spans_file: Path) -> Iterator[Worker]:
    env = {
        "DYNAMO_NAMESPACE": NAMESPACE,
        "SPANS_FILE": str(spans_file),
        "DYNAMO_SYSTEM_PORT": "0",
        "DYNAMO_LOG_FORMAT": "json",
    }
    service, settings = "tests.support.traced_service:Worker", ("Worker.engine=mocker",)
    with Worker(redis_server.url, service=service, env=env, settings=settings) as process:
        yield process


@pytest.fixture(scope="module")
def http(redis_server: RedisServer, spans_file: Path, worker: Worker) -> Iterator[Frontend]:
    env = {"DYNAMO_NAMESPACE": NAMESPACE, "SPANS_FILE": str(spans_file)}
    with Frontend(redis_server.url, service="tests.support.traced_service:Frontend", env=env) as process:
        yield process


def conventions() -> set[str]:
    """The attributes that OpenTelemetry's conventions know."""
    found = set()
    for name in ("client", "error", "gen_ai", "http", "messaging", "network", "server", "url", "user_agent"):
        for package in ("opentelemetry.semconv._incubating.attributes", "opentelemetry.semconv.attributes"):
            with contextlib.suppress(ImportError):
                module = importlib.import_module(f"{package}.{name}_attributes")
                found |= {value for key, value in vars(module).items() if key.isupper()}
    return found


def by_name_of(path: Path) -> dict[str, dict]:
    return {span["name"]: span for span in read_spans(path)}


def test_http_submit_run_and_generate_are_one_trace(http: Frontend, spans_file: Path) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    status, answer, _ = http.request("POST", "/v1/completions", BODY, headers)
    assert status == 200
    by_name = until(
        lambda: (found := by_name_of(spans_file)).keys() >= set(NAMES) and found, what="all spans"
    )
    parent = PARENT
    for name in NAMES:
        span = by_name[name]
        assert span["context"]["trace_id"] == f"0x{TRACE}"
        assert span["parent_id"] == f"0x{parent}", name
        parent = span["context"]["span_id"][2:]
    asked = by_name["dynamo.http"]["attributes"]
    assert asked == {
        "http.request.method": "POST", "http.route": "/v1/completions", "http.response.status_code": 200,
        "url.path": "/v1/completions", "url.scheme": "http", "network.protocol.version": "1.1",
        "server.address": "127.0.0.1", "server.port": http.port, "client.address": "127.0.0.1",
        "gen_ai.operation.name": "text_completion", "gen_ai.provider.name": "dynamo-tasks",
        "gen_ai.request.model": "mocker", "gen_ai.response.model": "mocker",
        "gen_ai.usage.input_tokens": asked["gen_ai.usage.input_tokens"], "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 0, "dynamo.request_id": answer["x-request-id"],
    }  # fmt: skip
    for name, kind in (("dynamo.submit", "send"), ("dynamo.run", "process")):
        message = by_name[name]["attributes"]
        assert (message["messaging.operation.type"], message["messaging.system"]) == (kind, "celery")
        assert message["messaging.message.id"] == answer["x-request-id"]
    assert by_name["dynamo.run"]["attributes"]["dynamo.request_id"] == answer["x-request-id"]
    generated = by_name["dynamo.generate"]["attributes"]
    assert (generated["gen_ai.provider.name"], generated["gen_ai.operation.name"]) == (
        "mocker",
        "text_completion",
    )
    assert generated["gen_ai.usage.output_tokens"] == 2
    for span in by_name.values():
        ours = {name for name in span["attributes"] if not name.startswith("dynamo.")}
        assert ours <= conventions(), ours - conventions()
    assert generated["gen_ai.response.finish_reasons"] == ["length"]


def sample(text: str, name: str) -> float:
    found = re.search(rf"^dynamo_tasks_{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_worker_counts_its_tokens_and_shows_its_engine(
    redis_server: RedisServer, http: Frontend, worker: Worker
) -> None:
    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    (instance,) = snapshot(redis_server.url, NAMESPACE)["instances"]
    port = instance["system_port"]
    before = metrics()
    for _ in range(2):
        status, _, answer = http.request("POST", "/v1/completions", BODY)
        assert status == 200
    for kind, count in (("prompt", answer["usage"]["prompt_tokens"]), ("completion", 2)):
        name = f'tokens_total{{endpoint="{NAMESPACE}.Worker.generate",kind="{kind}"}}'
        until(
            lambda name=name, count=count: sample(metrics(), name) - sample(before, name) == 2 * count,
            what=f"the tokens of both: {name}",
        )
    until(
        lambda: sample(metrics(), 'instance_prefix_hits{component="Worker"}') > 0,
        what="prefix hits of the worker",
    )
    shown = 'engine_prefix_hits{model="mocker"}'
    until(lambda: sample(http.get("/metrics")[1].decode(), shown) > 0, what="prefix hits in the frontend")
    lines = [json.loads(line) for line in worker.output.splitlines() if line.startswith('{"time"')]
    (started,) = [line for line in lines if line.get("event") == "engine.start"]
    assert (started["engine"], started["model"], started["level"]) == ("mocker", "mocker", "INFO")
