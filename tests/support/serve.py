"""``dynamo-tasks serve`` as a process, with a home of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from dynamo_tasks.config.host.home import Home
from dynamo_tasks.config.host.redis_server import running_url
from dynamo_tasks.serve.cli import cli
from dynamo_tasks.store.client import close_shared
from tests.support.processes import ROOT, START, Process, until

__all__ = ["COMMAND", "Serve", "environ_of", "processes_of", "typed"]

COMMAND = [sys.executable, "-m", "dynamo_tasks"]


def environ_of(home: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DYNAMO_")}
    return {**kept, "DYNAMO_HOME": str(home), "DYNAMO_STRICT_TELEMETRY": "1", **more}


def typed(home: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A command that starts nothing, in this process: a process of its own would take a second to import what it needs.

    Args:
        home: As of a :class:`Serve`.
        *arguments: Its command line, after ``dynamo-tasks``.
        **env: Variables beside the home.
    """
    unset = {name: None for name in os.environ if name.startswith("DYNAMO_")}
    with contextlib.chdir(ROOT):
        done = CliRunner().invoke(
            cli, arguments, env=unset | environ_of(home, **env), prog_name="dynamo-tasks"
        )
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def processes_of(home: Path) -> list[int]:
    """Everything that was started with this home, however it is related to us."""
    mark, found = f"DYNAMO_HOME={home}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # The server writes its title over its environment, but it lives in the home.
            mine = (entry / "cwd").readlink().is_relative_to(home)
            if mine or mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


class Serve(Process):
    """A ``serve`` on a port that it chooses itself."""

    def __init__(self, home: Path, *arguments: str, wait: bool = True, **env: str):
        self.home = home
        argv = [*COMMAND, "serve", "--port", "0", *arguments]
        super().__init__(argv, environ_of(home, **env), name="serve", wait=wait)

    def wait_ready(self, timeout: float = START) -> None:
        self.line("ready ", timeout)

    def line(self, start: str, timeout: float = START) -> str:
        """The first line that starts so."""
        pattern = re.compile(rf"^{re.escape(start)}.*$", re.MULTILINE)
        found = until(lambda: pattern.search(self.output) or not self.alive, timeout, f"a line {start!r}")
        assert found is not True, self.output
        return str(found.group())

    @property
    def port(self) -> int:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.line("ready "))
        assert found
        return int(found.group(1))

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command beside it."""
        return subprocess.run(
            [*COMMAND, *arguments],
            env=environ_of(self.home),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=START,
        )

    def instances(self) -> list[dict[str, Any]]:
        """Those that serve requests: without `Background`."""
        found = typed(self.home, "status", "--json")
        assert found.returncode == 0, found.stderr
        return [one for one in json.loads(found.stdout)["instances"] if one["component"] != "Background"]

    def post(self, path: str, body: Any, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
        return connection.getresponse()

    def interrupt(self) -> float:
        """Ctrl-C; seconds until the end."""
        start = time.monotonic()
        self.signal(signal.SIGINT)
        assert self.popen.wait(20) == 0, self.output
        return time.monotonic() - start

    def __exit__(self, *exc: object) -> None:
        if url := running_url(Home(self.home)):
            close_shared(url)  # of what was typed in this process: it would look for the server for ever
        if self.alive:
            self.signal(signal.SIGINT)
            self.popen.wait(20)
        super().__exit__(*exc)
