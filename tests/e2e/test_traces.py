"""One trace from an HTTP request to the engine."""

from __future__ import annotations

from pathlib import Path

from tests.support.processes import Frontend, Worker, until
from tests.support.server import RedisServer
from tests.support.traced_service import read_spans

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
NAMES = ["dynamo.http", "dynamo.submit", "dynamo.run", "dynamo.generate"]


def by_name_of(path: Path) -> dict[str, dict]:
    return {span["name"]: span for span in read_spans(path)}


def test_http_submit_run_and_generate_are_one_trace(redis_server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    env = {"DYNAMO_NAMESPACE": "traces-e2e", "SPANS_FILE": str(path)}
    module, url = "tests.support.traced_service", redis_server.url
    body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
    with (
        Worker(url, service=f"{module}:Worker", env=env),
        Frontend(url, service=f"{module}:Frontend", env=env) as http,
    ):
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        status, answer, _ = http.request("POST", "/v1/chat/completions", body, headers)
        assert status == 200
        by_name = until(lambda: (found := by_name_of(path)).keys() >= set(NAMES) and found, what="all spans")
    parent = PARENT
    for name in NAMES:
        span = by_name[name]
        assert span["context"]["trace_id"] == f"0x{TRACE}"
        assert span["parent_id"] == f"0x{parent}", name
        parent = span["context"]["span_id"][2:]
    assert by_name["dynamo.http"]["attributes"] == {
        "http.route": "/v1/chat/completions", "http.response.status_code": 200, "gen_ai.request.model": "echo",
        "dynamo.request_id": answer["x-request-id"],
    }  # fmt: skip
    assert by_name["dynamo.run"]["attributes"]["dynamo.request_id"] == answer["x-request-id"]
    generated = by_name["dynamo.generate"]["attributes"]
    assert generated["gen_ai.usage.output_tokens"] == 2
    assert generated["gen_ai.response.finish_reasons"] == ["stop"]
