"""``dynamo-tasks serve`` and the commands beside it, as processes on the real system."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamo_tasks.protocol.states import State
from dynamo_tasks.store.client import StoreClient
from dynamo_tasks.store.ledger.record import Record
from tests.support.processes import together, until
from tests.support.promises import in_time
from tests.support.serve import Serve, processes_of, typed
from tests.support.server import RedisServer, free_port

MOCKER = ("--Worker.engine=mocker", "--Worker.engine_args.token_delay_ms=10")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    more = ("--Worker.ServiceArgs.workers=2", "--system-port", "0")
    with Serve(tmp_path_factory.mktemp("home"), *MOCKER, *more) as serve:
        until(lambda: len(serve.instances()) == 2, 30, "both workers")
        yield serve


def completion(served: Serve, tokens: int) -> tuple[str, str]:
    """Id and text of a request that has ended."""
    answer = served.post("/v1/completions", {"model": "mocker", "prompt": "abc", "max_tokens": tokens})
    assert answer.status == 200
    request_id = answer.headers["x-request-id"]
    return request_id, json.loads(answer.read())["choices"][0]["text"]


def test_it_says_what_it_does(served: Serve) -> None:
    assert re.match(r"server +redis://:\*\*\*@127\.0\.0\.1:\d+/0 \(embedded, data in ", served.line("server"))
    assert f"curl -N http://127.0.0.1:{served.port}/v1/chat/completions" in served.line("try ")
    assert "\x1b" not in served.output


def test_its_curl_line_works(served: Serve) -> None:
    command = served.line("try ").partition("curl ")[2]
    done = subprocess.run(["bash", "-c", f"curl -sS {command}"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("data: [DONE]\n\n")


def test_status_shows_the_tree_and_json(served: Serve) -> None:
    shown = served.cli("status").stdout.splitlines()
    assert re.match(r"redis://:\*\*\*@127\.0\.0\.1:\d+/0$", shown[0])
    assert re.match(r"memory \d+ of [\d,]+ MiB \(.*\): room for [\d,]+ tokens/s kept for 60 s$", shown[1])
    assert shown[2] == "└── dynamo"
    assert re.search(r"Worker  embed, generate  2 instances, 0 queued", "\n".join(shown))
    assert re.search(r"Background  deliver, run_batch  1 instance, 0 queued", shown[3])
    one, two = served.instances()
    assert {one["namespace"], two["namespace"]} == {"dynamo"}
    assert one["host"] == os.uname().nodename
    assert one["endpoints"] == ["embed", "generate"]
    assert {one["pid"], two["pid"]} <= set(processes_of(served.home))
    assert one["state"] in ("running", "healthy")
    assert one["load"]["capacity"] == 256


def test_each_worker_has_a_system_port(served: Serve) -> None:
    ports = {one["system_port"] for one in served.instances()}
    assert len(ports) == 2
    for port in ports:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()
        assert re.search(
            rf" \d+@{re.escape(os.uname().nodename)}:{port} ", typed(served.home, "status").stdout
        )


def test_status_counts_what_runs(served: Serve) -> None:
    answer = served.post(
        "/v1/completions", {"model": "mocker", "prompt": "a", "max_tokens": 2000, "stream": True}
    )
    answer.readline()
    until(lambda: sum(item["in_flight"] for item in served.instances()) == 1, 30, "one in flight")
    until(lambda: sum(item["tokens_per_s"] for item in served.instances()) > 10, 30, "tokens per second")
    request_id = answer.headers["x-request-id"]
    answer.close()
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.request("DELETE", f"/v1/requests/{request_id}")
    assert connection.getresponse().status == 200
    until(lambda: sum(item["in_flight"] for item in served.instances()) == 0, 30, "none in flight")


def test_call_streams(served: Serve) -> None:
    request = json.dumps({"prompt": "abc", "max_tokens": 30})
    done = served.cli("call", "dynamo.Worker.generate", request)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == completion(served, 30)[1] + "\n"
    embedded = typed(served.home, "call", "dynamo.Worker.embed", '{"input": "x", "dimensions": 2}')
    assert embedded.stdout.startswith('{"embeddings": [[')


def test_call_says_what_is_wrong_in_one_line(served: Serve) -> None:
    for arguments, text in [
        (["dynamo.Worker.generat", "{}"], "did you mean 'generate'?"),
        (["dynamo.Worker.generate", '{"prompt": "x", "max_tokens": -1}'], "max_tokens"),
        (["dynamo.Worker", "{}"], "namespace.Component.endpoint"),
    ]:
        done = typed(served.home, "call", *arguments)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert text in line
    assert "Traceback" not in served.output


def test_tail_replays_a_finished_stream(served: Serve) -> None:
    request_id, text = completion(served, 30)
    assert typed(served.home, "tail", request_id).stdout == text + "\n"


def test_tail_follows_a_stream_that_runs(served: Serve) -> None:
    body = {"model": "mocker", "prompt": "abc", "max_tokens": 150, "stream": True}
    answer = served.post("/v1/completions", body)
    first = answer.readline()
    assert first.startswith(b"id: ")
    followed = served.cli("tail", answer.headers["x-request-id"])
    assert followed.returncode == 0, followed.stderr
    assert followed.stdout == completion(served, 150)[1] + "\n"
    rest = typed(served.home, "tail", answer.headers["x-request-id"], "--after", first[4:].decode().strip())
    assert followed.stdout.endswith(rest.stdout)


def test_tail_of_an_unknown_id_is_one_line(served: Serve) -> None:
    done = typed(served.home, "tail", "no-such-request")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: no request 'no-such-request' is known\n"


def test_a_killed_worker_comes_back(served: Serve) -> None:
    before = {item["pid"] for item in served.instances()}
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    until(lambda: "ended with signal SIGKILL; starts again in " in served.output, 30, "the notice")

    def renewed() -> bool:
        now = {item["pid"] for item in served.instances()}
        return victim not in now and len(now) == 2

    until(renewed, 20.0, "a new worker in the registry, the dead one gone")
    assert completion(served, 3)[1]


def test_ctrl_c_stops_all_within_five_seconds_with_streams_running(tmp_path: Path) -> None:
    homes = (tmp_path / f"home{n}" for n in itertools.count())
    in_time(lambda: _interrupted_with_streams(next(homes)), 5.0)


def _interrupted_with_streams(home: Path) -> float:
    with Serve(home, *MOCKER) as serve:
        # serve, its guard, the server, a worker, the frontend, Background
        assert len(processes_of(home)) == 6
        answers = [
            serve.post(
                "/v1/completions", {"model": "mocker", "prompt": "a", "max_tokens": 5000, "stream": True}
            )
            for _ in range(3)
        ]
        for answer in answers:
            answer.readline()
        took = serve.interrupt()
        until(lambda: not processes_of(home), 30, "no process left")
        assert re.search("stop +done", serve.output)
    return took


@pytest.mark.slow
def test_nothing_outlives_a_killed_serve(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Serve(home) as serve:
        assert len(processes_of(home)) == 6
        serve.kill()
        until(lambda: not processes_of(home), 30, "no process left")


@pytest.mark.slow
def test_services_apart_share_the_server_and_a_key_guards_http(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with together(
        Serve(home, "--service", "Worker"), Serve(home, "--service", "Frontend", "--api-key", "k1,k2")
    ) as (worker, frontend):
        assert "dynamo.Worker" in worker.line("ready ")
        assert worker.line("server") == frontend.line("server")
        body = {"model": "echo", "prompt": "hi"}
        assert frontend.post("/v1/completions", body).status == 401
        assert frontend.post("/v1/completions", body, Authorization="Bearer k2").status == 200
        assert "Bearer $DYNAMO_API_KEY" in frontend.line("try ")
        assert "k1" not in frontend.output
        frontend.interrupt()
        assert "left running for its other users" in frontend.output
    until(lambda: not processes_of(home), 30, "no process left")


def test_a_named_server_is_used_and_none_started(tmp_path: Path, redis_server: RedisServer) -> None:
    home = tmp_path / "home"
    url = redis_server.url
    with Serve(home, "--Worker.dynamo.namespace=named", DYNAMO_REDIS_URL=url) as serve:
        assert serve.line("server") == f"server     {url} (DYNAMO_REDIS_URL)"
        serve.interrupt()
    assert not (home / "server").exists()
    assert redis_server.ping()


@pytest.mark.slow
def test_requests_run_on_for_the_grace_period(tmp_path: Path, redis_server: RedisServer) -> None:
    settings = ("--Worker.engine=mocker", "--Worker.engine_args.token_delay_ms=200")
    env = {"DYNAMO_REDIS_URL": redis_server.url, "DYNAMO_GRACE_PERIOD": "60"}
    with Serve(tmp_path / "home", *settings, "--Worker.dynamo.namespace=graced", **env) as serve:
        body = {"model": "mocker", "prompt": "a", "max_tokens": 30, "stream": True}
        answer = serve.post("/v1/completions", body | {"background": True})
        request_id = answer.headers["x-request-id"]
        assert answer.readline()  # it runs, and needs some 6 s
        serve.signal(signal.SIGINT)
        assert serve.popen.wait(90) == 0, serve.output
        assert "did not stop in time" not in serve.output
    record = asyncio.run(_record(redis_server.url, request_id))
    assert (record.state, record.attempts) == (State.SUCCEEDED, 1)


async def _record(url: str, request_id: str) -> Record:
    client = await StoreClient.connect(url)
    try:
        return await client.ledger.get(request_id)
    finally:
        await client.close()


def test_mistakes_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("Worker: {engine: mocker\n")
    (tmp_path / "unknown.yaml").write_text("Worker: {engin: mocker}\n")
    dead = f"redis://127.0.0.1:{free_port()}/0"
    cases: list[tuple[list[str], dict[str, str], str]] = [
        ([], {"DYNAMO_REDIS_URL": dead}, f"no Redis server answers at {dead}: Connection refused"),
        (["no_such_module:Frontend"], {}, "no module 'no_such_module'"),
        (["--nonsense"], {}, "No such option"),
    ]
    running = [Serve(tmp_path / "home", *arguments, wait=False, **env) for arguments, env, _ in cases]
    for serve, (arguments, _, text) in zip(running, cases, strict=True):
        with serve:
            assert serve.popen.wait(30) == 2, serve.output
            (line,) = serve.output.splitlines()
            assert line.startswith("Error: "), (arguments, line)
            assert text in line
    for arguments, text in [
        (["workers.agg:Fronted"], "'Fronted'"),
        (["-f", str(tmp_path / "none.yaml")], "No such file"),
        (["-f", str(tmp_path / "bad.yaml")], "not valid YAML"),
        (["-f", str(tmp_path / "unknown.yaml")], "did you mean 'engine'?"),
        (["--Worker.engine=mock"], "'mocker'"),
        (["--service", "Wroker"], "Worker"),
    ]:
        done = typed(tmp_path / "home", "serve", "--port", "0", "--dry-run", *arguments)
        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: "), (arguments, line)
        assert (done.returncode, text in line) == (2, True), line
    assert not (tmp_path / "home").exists()


def test_dry_run_starts_nothing(tmp_path: Path) -> None:
    shown = typed(tmp_path / "home", "serve", "-f", "configs/agg.yaml", "--dry-run").stdout
    assert "engine = echo" in shown
    assert "configs/agg.yaml:15" in shown
    assert "Worker-0: " in shown
    assert not (tmp_path / "home").exists()
