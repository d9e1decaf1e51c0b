"""A Redis server and workers for the length of a test session; the pytest plugin is made of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamo_tasks.config.host.home import Home
from dynamo_tasks.queue import worker
from dynamo_tasks.serve.processes import child, guard
from dynamo_tasks.serve.server import embedded
from dynamo_tasks.serve.server.embedded import EmbeddedServer

__all__ = ["ServerHandle", "WorkerHandle", "WorkerPool", "embedded_server"]

_POLL_S = 0.02
_STOP_S = 10.0


@dataclass(frozen=True)
class ServerHandle:
    """The Redis server of a test session."""

    url: str
    """``redis://:password@127.0.0.1:port/0``."""

    def database(self, number: int) -> str:
        """URL of another database of it, for an application of its own."""
        return f"{self.url.rsplit('/', 1)[0]}/{number}"


@contextlib.contextmanager
def embedded_server(folder: Path) -> Iterator[ServerHandle]:
    """Run an embedded server; it ends with the block, or with this process, however that ends.

    Args:
        folder: Of its own; its data stays there.

    Raises:
        ServerUnavailableError: no server program is found, or it does not start.
    """
    last = [sys.executable, "-m", embedded.__name__, str(folder), str(os.getpid())]
    argv = [sys.executable, "-I", "-S", str(Path(guard.__file__)), *last]
    watching = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True, text=True)
    server = EmbeddedServer(Home(folder))
    try:
        yield ServerHandle(server.join())
    finally:
        server.leave()
        watching.communicate(".\n")  # an orderly end: the guard has nothing to clean up


class WorkerHandle:
    """A worker process: ``celery -A APP worker --service SERVICE``.

    Args:
        service: ``module:Class``.
        app: The Celery application, as for ``celery -A``.
        settings: ``Service.key=value`` each.
        env: More environment variables.
        arguments: More arguments of ``celery worker``.
    """

    def __init__(
        self, service: str, *, app: str = "dynamo_tasks", settings: Sequence[str] = (),
        env: Mapping[str, str] | None = None, arguments: Sequence[str] = (),
    ):  # fmt: skip
        self.service = service
        self.log = Path(tempfile.mkstemp(prefix="dynamo-worker-", suffix=".log")[1])
        launcher = [sys.executable, "-I", "-S", str(Path(child.__file__)), str(os.getpid())]
        argv = [
            *launcher, sys.executable, "-m", worker.__name__, "-A", app, "worker", "--loglevel", "info",
            "-n", f"test-{uuid.uuid4().hex[:8]}@%h", "--service", service,
            *(part for setting in settings for part in ("--set", setting)), *arguments,
        ]  # fmt: skip
        # Test modules are importable here through what pytest has put into sys.path.
        path = os.pathsep.join(filter(None, sys.path))
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                argv, stdout=out, stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(env or {})},
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """``True`` while it runs."""
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """All that it has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_ready(self, timeout: float) -> None:
        """Wait until it takes requests.

        Raises:
            RuntimeError: it ended; with what it printed.
            TimeoutError: it is not ready within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while " ready." not in self.output:
            if not self.alive:
                raise RuntimeError(f"the worker of {self.service} ended:\n{self.output}")
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"the worker of {self.service} is not ready after {timeout} s:\n{self.output}"
                )
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """End it in good order; harmless when repeated."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self.log.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it as a crash would (``SIGKILL``)."""
        self._process.kill()
        self._process.wait()


class WorkerPool:
    """Starts each worker once; asked again with the same arguments, it gives the one that runs."""

    def __init__(self) -> None:
        self._workers: dict[str, WorkerHandle] = {}

    def __call__(
        self, service: str, *, app: str = "dynamo_tasks", settings: Sequence[str] = (),
        env: Mapping[str, str] | None = None, arguments: Sequence[str] = (), timeout: float = 60.0,
    ) -> WorkerHandle:  # fmt: skip
        """A worker that is ready; arguments as of :class:`WorkerHandle`.

        Raises:
            RuntimeError: it ended before it was ready.
            TimeoutError: it is not ready within ``timeout`` seconds.
        """
        key = repr((service, app, list(settings), sorted((env or {}).items()), list(arguments)))
        known = self._workers.get(key)
        if known is not None and known.alive:
            return known
        made = WorkerHandle(service, app=app, settings=settings, env=env, arguments=arguments)
        self._workers[key] = made
        made.wait_ready(timeout)
        return made

    def close(self) -> None:
        """Stop all of them."""
        for handle in self._workers.values():
            handle.stop()
