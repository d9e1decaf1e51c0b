"""What is harmed: Redis servers, workers and frontends as processes, and a supervisor that restarts what died."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.proxy import Line
from benchmarks.target import clean_environment, free_port, get_json
from dynamo_tasks.serve.server.binary import find_binary

__all__ = ["Fleet", "Member"]

_ROOT = Path(__file__).resolve().parents[1]
_LOOK_EVERY = 0.1


class Member:
    """One supervised process; the next one under the same name takes its place."""

    def __init__(self, name: str, argv: Sequence[str], env: dict[str, str], folder: Path):
        self.name = name
        self.port = 0
        self.frozen = False
        self._argv, self._env, self._folder = argv, env, folder
        self.popen = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with (self._folder / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(
                self._argv,
                env=self._env,
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def alive(self) -> bool:
        """Whether it runs (or is frozen)."""
        return self.popen.poll() is None

    def kill(self) -> None:
        """``kill -9``."""
        if self.alive:
            self.popen.kill()
        self.popen.wait()
        self.frozen = False

    def freeze(self) -> None:
        """``SIGSTOP``."""
        self.frozen = True
        os.kill(self.popen.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """``SIGCONT``."""
        if self.alive:
            os.kill(self.popen.pid, signal.SIGCONT)
        self.frozen = False

    def revive(self) -> bool:
        """Start it again if it died; whether it had."""
        if self.alive:
            return False
        self.popen = self._start()
        return True


class Fleet:
    """The whole system, up between ``with`` and its end.

    Attributes:
        faults: What was injected, by name.
        log: When what was injected, in words.
    """

    def __init__(
        self, folder: Path, *, workers: int, frontends: int, lanes: int, delay_ms: float, rng: random.Random
    ):
        self._folder, self._rng, self._delay_ms = folder, rng, delay_ms
        self._counts = (workers, frontends)
        self._stop = threading.Event()
        self._mends: list[tuple[float, Callable[[], None]]] = []
        self._lines: list[list[Line]] = []
        self._lanes = lanes
        self.faults: Counter[str] = Counter()
        self.log: list[tuple[float, str]] = []

    def __enter__(self) -> Fleet:
        """Start everything, and wait until requests can be served."""
        self.servers = [self._server(i) for i in range(self._lanes)]
        urls = [f"redis://127.0.0.1:{server.port}/0" for server in self.servers]
        env = {
            **clean_environment(),
            "DYNAMO_REDIS_URL": " ".join(urls),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(_ROOT),
        }
        for _ in range(self._counts[0]):
            self._lines.append([Line(url) for url in urls])
            for line in self._lines[-1]:
                line.__enter__()
        self.workers = [
            self._worker(i, {**env, "DYNAMO_REDIS_URL": " ".join(line.url for line in lines)})
            for i, lines in enumerate(self._lines)
        ]
        self.frontends = [self._frontend(i, env) for i in range(self._counts[1])]
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()
        self._wait_until_served(time.monotonic() + 60)
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop everything."""
        self._stop.set()
        self._supervisor.join()
        for member in (*self.frontends, *self.workers, *self.servers):
            member.kill()
        for line in (line for lines in self._lines for line in lines):
            line.__exit__()

    def _server(self, i: int) -> Member:
        folder, port = self._folder / f"redis-{i}", free_port()
        folder.mkdir(exist_ok=True)
        argv = [
            str(find_binary()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder),
            "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--loglevel", "warning",
        ]  # fmt: skip
        member = Member(f"redis-{i}", argv, clean_environment(), self._folder)
        member.port = port
        return member

    def _worker(self, i: int, env: dict[str, str]) -> Member:
        argv = [
            sys.executable, "-m", "celery", "-A", "dynamo_tasks", "worker", "-n", f"w{i}@%h", "--loglevel", "info",
            "--service", "dynamo_tasks.services.agg:Worker", "--set", "Worker.engine=mocker",
            "--set", f"Worker.engine_args.token_delay_ms={self._delay_ms:g}",
        ]  # fmt: skip
        return Member(f"worker-{i}", argv, env, self._folder)

    def _frontend(self, i: int, env: dict[str, str]) -> Member:
        port = free_port()
        argv = [
            sys.executable, "-m", "dynamo_tasks.serve.host", "--service", "dynamo_tasks.services.agg:Frontend",
            "--port", str(port),
        ]  # fmt: skip
        member = Member(f"frontend-{i}", argv, env, self._folder)
        member.port = port
        return member

    def _wait_until_served(self, deadline: float) -> None:
        for frontend in self.frontends:
            while not self._serves(frontend):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{frontend.name} serves nothing; see {self._folder}")
                time.sleep(_LOOK_EVERY)

    @staticmethod
    def _serves(frontend: Member) -> bool:
        try:
            return bool(get_json(f"http://127.0.0.1:{frontend.port}/v1/models")["data"])
        except OSError:  # HTTPError, a 503, is one too
            return False

    def _supervise(self) -> None:
        while not self._stop.wait(_LOOK_EVERY):
            for due, mend in list(self._mends):
                if time.monotonic() >= due:
                    mend()
                    self._mends.remove((due, mend))
            for member in (*self.servers, *self.workers, *self.frontends):
                member.revive()

    def harm(self) -> None:
        """Inject one random fault that this moment allows."""
        possible: list[Callable[[], str]] = [self._restart_redis]
        if len(self._sound(self.workers)) > 1:
            possible += [self._kill_worker] * 3 + [self._freeze_worker] * 2 + [self._cut_worker] * 2
        if len(self._sound(self.frontends)) > 1:
            possible += [self._kill_frontend] * 2 + [self._lose_machine]
        if self._sound(self.servers):
            possible += [self._freeze_redis, self._fill_memory]
        what = self._rng.choice(possible)()
        self.faults[what.split()[0]] += 1
        self.log.append((time.monotonic(), what))

    @staticmethod
    def _sound(members: list[Member]) -> list[Member]:
        return [member for member in members if member.alive and not member.frozen]

    def _kill_worker(self) -> str:
        member = self._rng.choice(self._sound(self.workers))
        member.kill()
        return f"kill_worker {member.name}"

    def _freeze_worker(self) -> str:
        member = self._rng.choice(self._sound(self.workers))
        return self._freeze(member, "freeze_worker", self._rng.uniform(1.0, 8.0))

    def _freeze(self, member: Member, name: str, seconds: float) -> str:
        member.freeze()
        self._later(seconds, member.thaw)
        return f"{name} {member.name} {seconds:.1f} s"

    def _later(self, seconds: float, mend: Callable[[], None]) -> None:
        self._mends.append((time.monotonic() + seconds, mend))

    def _cut_worker(self) -> str:
        """One worker cannot reach one of the servers; the others can."""
        member = self._rng.choice(self._sound(self.workers))
        lines, seconds = self._lines[self.workers.index(member)], self._rng.uniform(0.5, 8.0)
        line = self._rng.choice(lines)
        line.refuse()
        self._later(seconds, lambda: line.refuse(False))
        return f"cut_worker {member.name} {seconds:.1f} s"

    def _lose_machine(self) -> str:
        """All workers but one, and a frontend, at once."""
        workers = self._sound(self.workers)
        gone = [*self._rng.sample(workers, len(workers) - 1), self._rng.choice(self._sound(self.frontends))]
        for member in gone:
            member.popen.kill()
        for member in gone:
            member.kill()
        return f"lose_machine {' '.join(member.name for member in gone)}"

    def _fill_memory(self) -> str:
        """A server refuses every write that needs memory."""
        member, seconds = self._rng.choice(self._sound(self.servers)), self._rng.uniform(0.5, 6.0)
        self._limit_memory(member, "1mb")
        self._later(seconds, lambda: self._limit_memory(member, "0"))
        return f"fill_memory {member.name} {seconds:.1f} s"

    @staticmethod
    def _limit_memory(server: Member, limit: str) -> None:
        # A server that was restarted meanwhile has no limit any more.
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", server.port), 1) as sock,
        ):
            sock.sendall(f"CONFIG SET maxmemory {limit}\r\n".encode())
            sock.recv(100)

    def _kill_frontend(self) -> str:
        member = self._rng.choice(self._sound(self.frontends))
        member.kill()
        return f"kill_frontend {member.name}"

    def _restart_redis(self) -> str:
        member = self._rng.choice(self.servers)
        member.kill()
        return f"restart_redis {member.name}"

    def _freeze_redis(self) -> str:
        return self._freeze(
            self._rng.choice(self._sound(self.servers)), "freeze_redis", self._rng.uniform(0.5, 10.0)
        )
