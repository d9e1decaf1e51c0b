"""Real processes of the project: workers, frontends, commands."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from dynamo_tasks.queue import worker
from tests.support import web
from tests.support.server import free_port

__all__ = ["ROOT", "START", "Flower", "Frontend", "Process", "Worker", "environment", "together", "until"]

ROOT = Path(__file__).resolve().parents[2]
START = 60.0
"""Seconds that a process may take to be ready: a limit for a machine that does other things, too."""


def until(check: Callable[[], Any], timeout: float = 30.0, what: str | Callable[[], str] = "") -> Any:
    """Poll a condition that no signal announces; returns its first true value."""
    deadline = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            told = what() if callable(what) else what
            raise AssertionError(f"not within {timeout} s: {told or check}")
        time.sleep(0.01)


def environment(url: str, **more: str) -> dict[str, str]:
    """The environment of a child process on a test's server."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DYNAMO_")}
    path = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    return {
        **kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "DYNAMO_STRICT_TELEMETRY": "1",
        "DYNAMO_REDIS_URL": url, **more,
    }  # fmt: skip


class Process:
    """A child process whose output goes to a file: started when it is made, ready once entered, killed at the end.

    Args:
        argv: Its command line.
        env: Its whole environment.
        name: Of its output's file.
        cwd: Where it runs.
        wait: Whether entering it waits until it is ready.
    """

    def __init__(
        self, argv: list[str], env: dict[str, str], *, name: str = "process", cwd: Path = ROOT, wait: bool = True
    ):  # fmt: skip
        self._waits = wait
        self.log = Path(tempfile.mkstemp(prefix=f"dt-{name}-", suffix=".log")[1])
        with self.log.open("wb") as out:
            self.popen = subprocess.Popen(argv, env=env, cwd=cwd, stdout=out, stderr=subprocess.STDOUT)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """``kill -9``."""
        if self.alive:
            self.signal(signal.SIGKILL)
        self.popen.wait()

    def terminate(self, timeout: float = 30.0) -> int:
        """SIGTERM, and wait for the end."""
        if self.alive:
            self.signal(signal.SIGTERM)
        return self.popen.wait(timeout)

    def wait_ready(self, timeout: float = START) -> None:
        """Wait until it does what it is there for."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.push(self.__exit__)
            if self._waits:
                self.wait_ready()
            undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.alive:
            self.signal(signal.SIGCONT)
        self.kill()
        self.log.unlink(missing_ok=True)


@contextlib.contextmanager
def together(*processes: Process) -> Iterator[tuple[Any, ...]]:
    """Processes that start beside each other; entered once all are ready."""
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.push(process.__exit__)
        yield tuple(stack.enter_context(process) for process in processes)


class Worker(Process):
    """``celery -A APP worker``, started as `serve` does it; ready once the worker says so."""

    def __init__(
        self, url: str, *arguments: str, service: str = "workers.agg:Worker", app: str = "dynamo_tasks",
        name: str = "w", env: dict[str, str] | None = None, wait: bool = True, settings: tuple[str, ...] = (),
        loglevel: str = "info", prefix: tuple[str, ...] = (), root: Path = ROOT, program: str = worker.__name__,
    ):  # fmt: skip
        argv = [*prefix, sys.executable, "-m", program, "-A", app, "worker"]
        argv += ["--loglevel", loglevel, "-n", f"{name}@%h"]
        if service:
            argv += ["--service", service]
        for setting in settings:
            argv += ["--set", setting]
        more = {"PYTHONPATH": str(root), **(env or {})} if root != ROOT else env or {}
        super().__init__(
            [*argv, *arguments], environment(url, **more), name=f"worker-{name}", cwd=root, wait=wait
        )

    def wait_ready(self, timeout: float = START) -> None:
        until(lambda: "ready." in self.output or not self.alive, timeout, lambda: f"ready: {self.output}")
        assert self.alive, self.output


class Frontend(Process):
    """The HTTP process of a graph; ready once ``/ready`` (or ``/live``) answers 200."""

    def __init__(
        self, url: str, *, service: str = "workers.agg:Frontend", settings: tuple[str, ...] = (), ready: str = "/ready",
        env: dict[str, str] | None = None, root: Path = ROOT, limit: int = 0,
    ):  # fmt: skip
        self.port = free_port()
        few = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh"] if limit else []  # of open files
        argv = [
            *few,
            sys.executable,
            "-m",
            "dynamo_tasks.serve.host",
            "--service",
            service,
            "--port",
            str(self.port),
        ]
        for setting in settings:
            argv += ["--set", setting]
        more = {"PYTHONPATH": str(root), **(env or {})} if root != ROOT else env or {}
        super().__init__(argv, environment(url, **more), name="frontend", cwd=root, wait=bool(ready))
        self._ready = ready

    def wait_ready(self, timeout: float = START) -> None:
        until(
            lambda: self.get(self._ready)[0] == 200 or not self.alive,
            timeout,
            lambda: f"ready: {self.output}",
        )
        assert self.alive, self.output

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """One request; status, headers, body (parsed if it is JSON)."""
        return web.ask(self.port, method, path, body, headers)

    def get(self, path: str) -> tuple[int, Any]:
        """GET; status 0 while nobody listens."""
        return web.look(self.port, path)

    def events(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Iterator[tuple[str, str]]:
        """Server-sent events as ``(id, data)``; close the iterator to drop the connection."""
        return web.events(self.port, method, path, body, headers)


class Flower(Process):
    """``celery -A dynamo_tasks flower``; not ready before :meth:`get` has a status."""

    def __init__(self, url: str, *arguments: str, **env: str):
        self.port = free_port()
        argv = [sys.executable, "-m", "celery", "-A", "dynamo_tasks", "flower"]
        where = [f"--port={self.port}", "--address=127.0.0.1"]
        super().__init__([*argv, *where, *arguments], environment(url, **env), name="flower")

    def get(self, path: str, login: str = "") -> tuple[int, Any]:
        """GET as ``user:password``; status 0 while nobody listens."""
        headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else None
        return web.look(self.port, path, headers)
