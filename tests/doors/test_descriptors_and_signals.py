"""What an operator does to a running ``serve``: too few descriptors, a full disk behind its output, signals."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT, Frontend, Worker, environment, together, until
from tests.support.raw_http import answers, chat_body, post
from tests.support.serve import COMMAND, Serve, environ_of, processes_of
from tests.support.server import RedisServer, free_port
from tests.support.web import look

pytestmark = pytest.mark.slow
ENV = {"DYNAMO_NAMESPACE": "descriptors"}
FEW = 100
CALLER = "tests.support.door_calls:Caller"


@pytest.fixture
def frontend(redis_server: RedisServer) -> Iterator[Frontend]:
    """With a worker behind it."""
    made = Frontend(redis_server.url, env=ENV, settings=("Frontend.keep_alive=1",))
    with together(Worker(redis_server.url, env=ENV, settings=("Worker.engine=echo",)), made):
        yield made


@contextlib.contextmanager
def crowd(port: int, many: int) -> Iterator[list[socket.socket]]:
    """Clients that connect, ask once, and stay."""
    with contextlib.ExitStack() as stack:
        socks = []
        for _ in range(many):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            sock.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            socks.append(sock)
        yield socks


def first_answer(sock: socket.socket) -> int:
    """Status of what a client gets; 0 where its connection was reset."""
    try:
        data = sock.recv(65536)
    except ConnectionResetError:
        return 0
    return answers(data)[0].status if data else 0


def limit_files(pid: int, spare: int) -> None:
    """Leave a process so many descriptors."""
    used = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()) + 1
    most = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + spare, most))


def test_without_descriptors_there_are_503s_and_a_line_a_second(frontend: Frontend) -> None:
    """Taken away while it runs, down to the last one: every client is told, and nobody for good."""
    limit_files(frontend.pid, 20)
    start = time.monotonic()
    with crowd(frontend.port, 60) as socks:
        found = [first_answer(sock) for sock in socks]
        assert (found.count(200) >= 10, found.count(503) >= 20) == (True, True), found
        assert found.count(0) <= 10, found
    until(lambda: look(frontend.port, "/live")[0] == 200, 30)
    status, _, body = frontend.request("POST", "/v1/chat/completions", json.loads(chat_body()))
    assert status == 200, body
    lines = [line for line in frontend.output.splitlines() if "http.full" in line]
    assert 1 <= len(lines) <= time.monotonic() - start + 1
    assert "Traceback" not in frontend.output


def test_the_last_descriptors_are_the_processs_own(redis_server: RedisServer) -> None:
    """A frontend that starts with few keeps some back, to reach its server again."""
    made = Frontend(
        redis_server.url, env={**ENV, "DYNAMO_NAMESPACE": "descriptors-few"}, ready="/live", limit=FEW
    )
    with made as frontend, crowd(frontend.port, FEW + 20) as socks:
        found = [first_answer(sock) for sock in socks]
        assert found.count(503) >= 20, found
        assert found.count(0) == 0, found
        assert len(list(Path(f"/proc/{frontend.pid}/fd").iterdir())) <= FEW - 10


@pytest.fixture
def caller(own_server: RedisServer) -> Iterator[Worker]:
    """A worker whose every connection is lost once it has no descriptor left."""
    with Worker(own_server.url, service=CALLER) as worker:
        limit_files(worker.pid, 0)
        for kind in ("normal", "pubsub"):
            own_server.command("CLIENT", "KILL", "TYPE", kind)
        yield worker


def test_a_worker_without_descriptors_waits_for_them(caller: Worker, own_server: RedisServer) -> None:
    """Calls that need another connection, a chord's among them, end once there is one; its log says why, calmly."""
    began, seen = time.monotonic(), len(caller.output)
    argv = [sys.executable, "-m", "tests.support.door_calls", "delay", "chord"]
    env = environment(own_server.url, DYNAMO_GRAPH=CALLER)
    with subprocess.Popen(argv, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True) as script:
        try:
            until(lambda: "Too many open files" in caller.output[seen:], 30, lambda: caller.output[seen:])
            until(lambda: time.monotonic() - began > 8, 10, "some seconds of it")
            said = caller.output[seen:]
            limit_files(caller.pid, 100)
            told = json.loads(script.communicate(timeout=60)[0].splitlines()[-1])
        finally:
            script.kill()
    assert caller.alive
    assert len(said.splitlines()) < 250, said
    assert "Traceback" not in said, said
    assert told["delay"][1] == 8, told
    assert told["chord"][1] == [0, 1, 2], told


HARMLESS = (signal.SIGUSR1, signal.SIGUSR2)


def test_signals_that_mean_nothing_end_nobody(tmp_path: Path) -> None:
    with Serve(tmp_path / "home") as serve:
        mine = [pid for pid in processes_of(serve.home) if _python(pid)]
        assert len(mine) >= 3
        for number in HARMLESS:
            for pid in mine:
                os.kill(pid, number)
        time.sleep(0.2)
        assert look(serve.port, "/ready")[0] == 200
        assert [pid for pid in processes_of(serve.home) if _python(pid)] == mine
        assert serve.alive


def _python(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"dynamo_tasks" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def test_a_hang_up_of_the_http_process_is_no_death(frontend: Frontend) -> None:
    """Its supervisor has the terminal; one that is started by hand under nohup goes on, others end in good order."""
    frontend.signal(signal.SIGHUP)
    assert frontend.popen.wait(30) == 0, frontend.output
    assert "Traceback" not in frontend.output


def test_an_output_that_takes_nothing_stops_nothing(tmp_path: Path) -> None:
    """``serve > /dev/full``: what cannot be shown is dropped."""
    home = tmp_path / "home"
    port = free_port()
    with open("/dev/full", "w") as full, open(tmp_path / "err", "wb") as err:
        serve = subprocess.Popen(
            [*COMMAND, "serve", "--port", str(port)], env=environ_of(home), stdout=full, stderr=err
        )
        try:
            until(lambda: look(port, "/ready")[0] == 200 or serve.poll() is not None, 60)
            assert serve.poll() is None, (tmp_path / "err").read_text()
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
                    sock.sendall(post(chat_body(), "Connection: close", key=""))
                    assert first_answer(sock) == 200
        finally:
            serve.send_signal(signal.SIGINT)
            assert serve.wait(60) == 0
    said = (tmp_path / "err").read_text()
    assert "Traceback" not in said
    assert len(said) < 2000, said
