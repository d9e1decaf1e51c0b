"""The load generator against a small server with the faults of real ones."""

import json
import socket

import pytest

from benchmarks import loadgen
from benchmarks.load import Load, percentile
from benchmarks.loadgen import run_load
from tests.support.sse_server import fake_server


def run(url, **changes):
    return run_load(Load(url=url, model="m", **{"max_tokens": 8, "requests": 10, **changes}))


def test_counts_every_request_and_token():
    with fake_server() as (url, script):
        result = run(url, concurrency=4, requests=30, warmup=5)
    assert (result.requests, result.tokens, result.short, result.uncounted) == (30, 240, 0, 0)
    assert not result.errors
    assert (len(result.ttft), len(result.latency), len(script.requests)) == (30, 30, 35)
    assert result.events == 30 * (1 + 8 + 1 + 1 + 1)
    assert script.connections == 4


def test_concurrency_is_what_was_asked_for():
    with fake_server(first_delay_s=0.05) as (url, _):
        one = run(url, concurrency=1, requests=8)
        eight = run(url, concurrency=8, requests=8)
    assert eight.wall_s < one.wall_s / 2


def test_times_follow_the_server():
    with fake_server(tokens=5, first_delay_s=0.08, delay_s=0.03) as (url, _):
        report = run(url, requests=3, max_tokens=5).report()
    assert 80 <= report["ttft_p50_ms"] < 2000
    assert 29 <= report["itl_p50_ms"] < 1000
    assert report["tpot_p50_ms"] > 25
    assert report["latency_p99_ms"] >= report["latency_p50_ms"] > 200


def test_tokens_that_come_together_are_one_gap_but_count_singly():
    with fake_server(tokens=8, tokens_per_event=4, delay_s=0.02) as (url, _):
        result = run(url, requests=2)
    assert result.tokens == 16
    assert len(result.itl) < 2 * 5


@pytest.mark.parametrize(("mode", "distinct"), [("unique", 6), ("shared", 1)])
def test_prompt_modes(mode, distinct):
    with fake_server() as (url, script):
        run(url, requests=6, prompt_mode=mode, prompt_chars=100)
    prompts = {body["messages"][0]["content"] for body in script.requests}
    assert len(prompts) == distinct
    assert {len(prompt) for prompt in prompts} == {100}
    assert script.requests[0]["stream_options"] == {"include_usage": True}
    assert script.requests[0]["max_tokens"] == 8


def test_not_streaming():
    with fake_server() as (url, script):
        result = run(url, stream=False, concurrency=2)
    assert (result.requests, result.tokens, result.itl) == (10, 80, [])
    assert "stream" not in script.requests[0]


def test_short_answers_and_missing_usage_are_reported():
    with fake_server(tokens=3, usage=False) as (url, _):
        result = run(url, requests=4)
    assert (result.tokens, result.short, result.uncounted) == (12, 4, 4)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"status": 503}, "HTTP 503"),
        ({"done": False}, "stream without"),
        ({"error_event": True}, "error event"),
        ({"cut_after_events": 4}, "Connection"),
    ],
)
def test_failed_requests_are_errors_and_the_run_goes_on(changes, error):
    with fake_server(**changes) as (url, _):
        result = run(url, concurrency=2, requests=6)
    assert (result.requests, sum(result.errors.values())) == (0, 6)
    assert all(text.startswith(error) for text in result.errors)


def test_server_that_closes_kept_alive_connections_costs_no_error():
    with fake_server(close_after=2) as (url, script):
        result = run(url, concurrency=3, requests=20)
    assert (result.requests, dict(result.errors)) == (20, {})
    assert script.connections > 3


def test_no_server_ends_at_once():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = run(f"http://127.0.0.1:{unused.getsockname()[1]}", concurrency=3)
    assert sum(result.errors.values()) == 10


def test_silent_server_times_out():
    with fake_server(first_delay_s=3) as (url, _):
        result = run(url, requests=1, timeout=0.2)
    assert dict(result.errors) == {"no end within 0.2 s": 1}
    assert result.wall_s < 2


def test_command_line_prints_json(capsys):
    with fake_server(tokens=64) as (url, _):
        assert loadgen.main(["--url", url, "--model", "m", "-c", "2", "-n", "4", "--api-key", "s3cret"]) == 0
    out = capsys.readouterr().out
    report = json.loads(out)
    assert (report["requests"], report["tokens"], report["load"]["concurrency"]) == (4, 256, 2)
    assert "s3cret" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "0"], "concurrency must be at least 1, not 0"),
        (["--max-tokens", "-1"], "max_tokens must be at least 1, not -1"),
        (["--url", "https://x"], "url must be http://host:port, not 'https://x'"),
    ],
)
def test_bad_arguments(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        loadgen.main(["--url", "http://127.0.0.1:1", "--model", "m", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("p", "value"), [(0, 1.0), (50, 2.5), (99, 3.97), (100, 4.0)])
def test_percentile(p, value):
    assert percentile([1.0, 2.0, 3.0, 4.0], p) == pytest.approx(value)
    assert percentile([], p) == 0.0
