"""dynamo-tasks itself, as a user starts it: ``dynamo-tasks serve`` with the mocker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.procstat import descendants, listeners
from benchmarks.target import Target, TargetError, clean_environment

__all__ = ["DynamoTasks"]

_SCRIPT = Path(sys.executable).with_name("dynamo-tasks")


class DynamoTasks(Target):
    """Frontend, ``workers`` worker processes and the embedded server, under one ``serve``."""

    name = "dynamo-tasks"

    def __init__(
        self,
        *,
        delay_ms: float,
        workers: int = 1,
        redis_url: str | None = None,
        flags: tuple[str, ...] = (),
    ):
        """Describe the server.

        Args:
            delay_ms: Milliseconds per decode step; 0 = as fast as it can.
            workers: Worker processes.
            redis_url: A server to use in place of the embedded one.
            flags: More arguments of ``serve``.
        """
        super().__init__(delay_ms=delay_ms)
        self._workers = workers
        self._redis_url = redis_url
        self._flags = flags

    def start(self, home: Path) -> None:
        """Start ``serve``."""
        argv = [
            str(_SCRIPT),
            "serve",
            "--port",
            str(self.port),
            "--Worker.engine=mocker",
            f"--Worker.engine_args.token_delay_ms={self.delay_ms:g}",
            f"--Worker.ServiceArgs.workers={self._workers}",
            *self._flags,
        ]
        self.spawn("serve", argv, self._environment())

    def groups(self) -> dict[str, set[int]]:
        """Frontend, worker, redis (if it runs here) and the supervisor, ``serve`` itself."""
        status = self._status()
        frontend = listeners(self.port)
        workers = {
            pid
            for instance in status["instances"]
            if instance["component"] == "Worker"
            for pid in descendants(instance["pid"])
        }
        if not frontend or not workers:
            raise TargetError(f"found frontend {frontend} and workers {workers} in {status}")
        redis = listeners(urlsplit(status["redis_url"]).port or 6379)
        serve = {self.pid("serve")}
        groups = {"frontend": frontend - serve, "worker": workers - serve, "redis": redis, "serve": serve}
        return {role: pids for role, pids in groups.items() if pids}

    def _environment(self) -> dict[str, str]:
        url = {"DYNAMO_REDIS_URL": self._redis_url} if self._redis_url else {}
        return {"DYNAMO_HOME": str(self.home), **url}

    def _status(self) -> Any:
        done = subprocess.run(
            [_SCRIPT, "status", "--json"],
            env={**clean_environment(), **self._environment()},
            capture_output=True,
            timeout=30,
            check=False,
        )
        if done.returncode:
            raise TargetError(f"dynamo-tasks status: {done.stderr.decode(errors='replace').strip()}")
        return json.loads(done.stdout)
