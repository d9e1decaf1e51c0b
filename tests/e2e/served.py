"""``dynamo-tasks serve`` as a process, as a newcomer starts it: no Redis named, a home of its own."""

from __future__ import annotations

import http.client
import os
import signal
import sys
from pathlib import Path

from tests.support.processes import Process, until
from tests.support.server import free_port

__all__ = ["Served"]


class Served(Process):
    """A whole graph with its embedded server; stopped with Ctrl-C."""

    def __init__(self, home: Path, *arguments: str):
        self.port = free_port()
        argv = [
            str(Path(sys.executable).with_name("dynamo-tasks")),
            "serve",
            "--port",
            str(self.port),
            *arguments,
        ]
        env = {key: value for key, value in os.environ.items() if not key.startswith("DYNAMO_")}
        super().__init__(
            argv, {**env, "DYNAMO_HOME": str(home), "DYNAMO_STRICT_TELEMETRY": "1"}, name="serve"
        )
        until(lambda: self.status("/ready") == 200 or not self.alive, 60.0, "serve is ready")
        assert self.alive, self.output

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def status(self, path: str) -> int:
        """Status of a GET; 0 while nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def __exit__(self, *exc: object) -> None:
        if self.alive:
            self.signal(signal.SIGINT)
            self.popen.wait(20)
        super().__exit__(*exc)
