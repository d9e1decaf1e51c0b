"""A whole run of ``serve`` with the real server and supervisor, and tiny processes in the services' place."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamo_tasks.config.host.home import Home, file_lock, read_json
from dynamo_tasks.config.host.identity import ProcessId
from dynamo_tasks.config.host.redis_server import running_url
from dynamo_tasks.serve.planning.ports import free_port
from tests.support.processes import until
from tests.support.promises import in_time

HTTP = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"data": [{"id": "tiny"}], "key": os.environ.get("DYNAMO_API_KEYS")}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
WORKER = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in sys.argv else signal.SIG_DFL)
print("url", os.environ["DYNAMO_REDIS_URL"].partition("@")[2], sys.argv[1], flush=True)
time.sleep(60)
"""
MAIN = """
import asyncio, os, sys
from dynamo_tasks.config import ResolvedConfig
from dynamo_tasks.errors import DynamoError
from dynamo_tasks.serve.session import Session
from dynamo_tasks.serve.processes.spec import ProcessPlan, ProcessSpec, RestartPolicy
from tests.support.promises import in_time
port, http, worker, *more = sys.argv[1:]
def make(suffix):
    def spec(name, code, *arguments, port=None):
        quick = RestartPolicy(base_s=0.01, max_quick_failures=3)
        policy = quick if "QUICK" in os.environ else RestartPolicy()
        argv = (sys.executable, "-c", code, *arguments)
        return ProcessSpec(name=name, service=name, argv=argv, restart=policy, port=port)
    specs = [spec("Worker-0", worker, "node" + suffix, *more)]
    if http:
        specs.append(spec("Frontend", http, port, port=int(port)))
    return ProcessPlan(processes=tuple(specs), config=ResolvedConfig({}), http="Frontend" if http else None,
                components={"dynamo.Worker": 1})
seen = []
def snapshot(url):
    seen.append(url)
    pids = open(os.environ["PIDS"]).read().split() if "PIDS" in os.environ else []
    return {"instances": [{"pid": int(pid)} for pid in pids]}
async def main():
    try:
        return await Session(make, host="127.0.0.1", port=int(port), api_key=os.environ.get("KEY"),
                             snapshot=snapshot).run()
    except DynamoError as error:
        print("Error:", error, flush=True)
        return 2
sys.exit(asyncio.run(main()))
"""


class Run:
    """One ``serve`` in a process of its own."""

    def __init__(
        self, home: Home, *, http: str = HTTP, worker: str = WORKER, more: str = "", **env: str
    ) -> None:
        self.port = free_port("127.0.0.1") or 0
        arguments = [str(self.port), http, worker, *more.split()]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("DYNAMO_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environ | {"DYNAMO_HOME": str(home.path)} | env,
        )
        self.lines: list[str] = []

    def until_deaf(self) -> None:
        """Read on until it is ready and its worker ignores signals."""
        self.until_all("^ready ", r"Worker-0 \| url ")

    def until_all(self, *patterns: str) -> None:
        """Read on to a line for each pattern, in whichever order."""
        left = set(patterns)
        while left:
            line = self.until("|".join(left)).string
            left = {one for one in left if not re.search(one, line)}

    def until(self, pattern: str) -> re.Match[str]:
        """Read on to a line that matches."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no line like {pattern!r} in:\n" + "\n".join(self.lines))

    def reached(self, pattern: str) -> re.Match[str]:
        """The same, where the line may have come already: before one of another process that was looked for."""
        return next(filter(None, (re.search(pattern, line) for line in self.lines)), None) or self.until(
            pattern
        )

    def end(self, number: signal.Signals | None = None) -> tuple[int, float]:
        """Exit code, and seconds until the end."""
        start = time.monotonic()
        if number:
            self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=20)
        self.lines += rest.splitlines()
        return self.process.returncode, time.monotonic() - start

    def pid(self, name: str) -> ProcessId:
        started = [line for line in self.lines if line.startswith(f"{name} ") and "* pid " in line]
        found = ProcessId.of(int(started[-1].rpartition(" ")[2]))
        assert found
        return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    yield home
    assert running_url(home) is None


def server_of(home: Home) -> ProcessId:
    state = read_json(home.server / "server.json") or {}
    server = ProcessId.from_json([state.get("pid"), state.get("started")])
    assert server
    return server


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_and_stops_without_a_trace(home: Home, number: signal.Signals) -> None:
    in_time(lambda: _served_and_stopped(home, number), 5)


def _served_and_stopped(home: Home, number: signal.Signals) -> float:
    """Seconds from the signal to the end."""
    run = Run(home)
    run.until(r"^server +redis://:\*\*\*@127\.0\.0\.1:\d+/0 \(embedded")
    run.until(rf"^ready +http://127\.0\.0\.1:{run.port} \(")
    line = run.until(r"^try +(curl .*)").group(1)
    assert json.loads(re.findall(r"-d '(.*)'$", line)[0])["model"] == "tiny"
    pids = [run.pid("Worker-0"), run.pid("Frontend"), server_of(home)]
    code, seconds = run.end(number)
    assert code == 0, run.lines
    assert not any(pid.alive() for pid in pids)
    assert "server     stopped" in run.lines
    password = (home.server / "password").read_text()
    assert password not in "\n".join(run.lines)
    return seconds


SLOW = """
import signal, sys, time
def end(*_):
    time.sleep(0.3)
    print("ended in good order", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(60)
"""


def test_a_signal_that_comes_twice_in_one_instant_is_one(home: Home) -> None:
    """`timeout` and a terminal's process group send it to the process, and again to its group."""
    run = Run(home, http="", worker=SLOW)
    run.until(r"^Worker-0 .* up$")
    run.process.send_signal(signal.SIGTERM)
    run.process.send_signal(signal.SIGINT)
    assert run.end(signal.SIGTERM)[0] == 0, run.lines
    assert any(line.endswith("ended in good order") for line in run.lines), run.lines


def test_a_second_ctrl_c_kills_at_once(home: Home) -> None:
    in_time(lambda: _killed_by_the_second(home), 2.8)


def _killed_by_the_second(home: Home) -> float:
    """Seconds from the first one to the end of the deaf worker, whose grace is longer."""
    run = Run(home, more="deaf")
    run.until_deaf()
    run.process.send_signal(signal.SIGINT)
    run.until("^stop .* stopping$")
    began = time.monotonic()
    while run.process.poll() is None and time.monotonic() - began < 1.2:
        time.sleep(0.05)  # less than the grace of the deaf worker, more than an instant
    run.process.send_signal(signal.SIGINT)
    run.until("did not stop in time, killed$")
    seconds = time.monotonic() - began
    assert run.end()[0] == 0, run.lines
    return seconds


def test_nohup_is_respected(home: Home) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = Run(home)
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    run.process.send_signal(signal.SIGHUP)
    run.until("^ready ")
    assert run.end(signal.SIGTERM)[0] == 0


def test_a_worker_that_ignores_sigterm_does_not_hold_it_up(home: Home) -> None:
    def seconds() -> float:
        run = Run(home, more="deaf")
        run.until_deaf()
        worker = run.pid("Worker-0")
        code, took = run.end(signal.SIGTERM)
        assert code == 0
        assert not worker.alive()
        return took

    in_time(seconds, 5)


def test_a_service_that_does_not_start_is_one_line_and_code_2(home: Home) -> None:
    run = Run(home, worker="print('no such model'); raise SystemExit(2)", http="import time; time.sleep(60)")
    assert run.end()[0] == 2
    assert run.lines[-1] == "Error: Worker-0 ended with exit code 2: no such model"


def test_a_mistake_in_the_plan_starts_nothing(home: Home) -> None:
    run = Run(home, DYNAMO_REDIS_URL="http://x")
    assert run.end()[0] == 2
    assert "scheme must be one of" in run.lines[-1]
    assert not home.path.exists()


def test_a_dead_redis_is_one_line_and_code_2(home: Home) -> None:
    port = free_port("127.0.0.1")
    run = Run(home, DYNAMO_REDIS_URL=f"redis://:pw@127.0.0.1:{port}/0")
    assert run.end()[0] == 2
    assert run.lines == [
        f"Error: no Redis server answers at redis://:***@127.0.0.1:{port}/0: Connection refused"
    ]
    assert not home.path.exists()


def test_the_api_key_reaches_the_frontend_and_not_the_output(home: Home) -> None:
    run = Run(home, KEY="geheim")
    assert "$DYNAMO_API_KEY" in run.until("^try ").string
    frontend = run.pid("Frontend")
    assert b"DYNAMO_API_KEYS=geheim" in Path(f"/proc/{frontend.pid}/environ").read_bytes()
    assert b"geheim" not in Path(f"/proc/{frontend.pid}/cmdline").read_bytes()
    assert run.end(signal.SIGTERM)[0] == 0
    assert "geheim" not in "\n".join(run.lines)


def test_two_runs_share_the_server_under_different_node_names(home: Home) -> None:
    first = Run(home)
    where = first.until(r"url (\S+) node").group(1)
    first.reached("^ready ")
    second = Run(home)
    found = second.until(r"\burl (\S+) (\S+)")
    assert found.groups() == (where, f"node-{second.process.pid}")
    second.reached("^ready ")
    assert second.end(signal.SIGTERM)[0] == 0
    assert "server     left running for its other users" in second.lines
    assert first.end(signal.SIGTERM)[0] == 0
    assert "server     stopped" in first.lines


def test_a_killed_server_comes_back_for_the_same_clients(home: Home) -> None:
    run = Run(home)
    run.until("^ready ")
    url = running_url(home)
    worker = run.pid("Worker-0")
    before = server_of(home)
    os.kill(before.pid, signal.SIGKILL)
    run.until(r"^server +had ended, started again")
    assert running_url(home) == url
    assert server_of(home) != before
    assert worker.alive()
    assert run.end(signal.SIGTERM)[0] == 0


def test_nothing_outlives_a_killed_run(home: Home) -> None:
    run = Run(home, more="deaf")
    run.until_deaf()
    processes = [run.pid("Worker-0"), run.pid("Frontend"), server_of(home)]
    run.end(signal.SIGKILL)
    assert all(process.wait_gone(10) for process in processes)
    again = Run(home)
    again.until("^ready ")
    assert again.end(signal.SIGTERM)[0] == 0


def test_a_killed_run_leaves_the_server_to_another_one(home: Home) -> None:
    other, run = Run(home), Run(home)
    other.until("^ready ")
    run.until("^ready ")
    worker = run.pid("Worker-0")
    run.end(signal.SIGKILL)
    assert worker.wait_gone(10)
    with file_lock(home.server / "lock", 5.0, "the guard is busy"):
        assert running_url(home)
    assert other.end(signal.SIGTERM)[0] == 0
    assert "server     stopped" in other.lines


def test_without_http_it_waits_for_the_registry(home: Home, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.write_text("")
    run = Run(home, http="", PIDS=str(pids))
    run.until("url ")
    assert not any(line.startswith("ready") for line in run.lines)
    pids.write_text(f"{run.pid('Worker-0').pid}\n")
    run.reached(r"^ready +dynamo\.Worker \(")
    assert run.end(signal.SIGTERM)[0] == 0


BREAKS = """
import os, signal, sys
if os.environ.get("DYNAMO_RESTARTS"):
    sys.exit(9)
def end(*_):
    print("broke", flush=True)
    os._exit(2)
signal.signal(signal.SIGUSR1, end)
print("up", flush=True)
while True:
    signal.pause()
"""


def test_a_service_that_fails_later_is_tried_again_and_then_ends_the_run_with_code_1(home: Home) -> None:
    run = Run(home, worker=BREAKS, QUICK="1")
    run.until_all("^ready ", r"Worker-0 \| up")  # before that it ignores the signal
    run.pid("Worker-0").signal(signal.SIGUSR1)
    run.until(r"^Worker-0 +\* ended with exit code 2: broke; starts again")
    run.until(r"^failed +Worker-0 ended with exit code 9 \(3 quick ends in a row\)")
    assert run.end()[0] == 1


def test_without_http_a_failure_before_the_registration_is_an_error(home: Home) -> None:
    run = Run(home, http="", worker="print('bad'); raise SystemExit(2)")
    assert run.end()[0] == 2
    assert run.lines[-1] == "Error: Worker-0 ended with exit code 2: bad"


def test_a_signal_while_the_server_starts_stops_all(home: Home, tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "redis-server"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\n[ $1 = --version ] && echo 'Redis server v=7.2.0' && exit\nexec sleep 60\n")
    fake.chmod(0o755)
    log = home.server / "server.log"

    def seconds() -> float:
        log.unlink(missing_ok=True)
        run = Run(home, PATH=f"{fake.parent}:{os.environ['PATH']}")
        until(log.exists, 20, "the server starts")
        code, took = run.end(signal.SIGTERM)
        assert code == 0, run.lines
        return took

    in_time(seconds, 5)


def test_the_reader_of_the_output_may_leave(home: Home) -> None:
    run = Run(home)
    run.until("^ready ")
    assert run.process.stdout
    pids = [run.pid("Worker-0"), run.pid("Frontend")]
    run.process.stdout.close()
    os.kill(pids[0].pid, signal.SIGKILL)
    assert pids[0].wait_gone(10)
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(20) == 0
    assert not pids[1].alive()
