"""What is measured: a server made of local processes, started and stopped by the benchmark."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Target", "TargetError", "clean_environment", "free_port", "get_json"]

_POLL_S = 0.05
_STOP_S = 15.0


class TargetError(Exception):
    """A server did not start, or does not answer as it should."""


def free_port() -> int:
    """A TCP port that nobody uses at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def get_json(url: str, timeout: float = 5.0, headers: Mapping[str, str] | None = None) -> Any:
    """GET a JSON document.

    Raises:
        OSError: No connection, or a status other than 200.
        ValueError: No JSON.
    """
    request = urllib.request.Request(url, headers=dict(headers or {}))
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.load(answer)


class Target(ABC):
    """A server, up between ``with`` and its end.

    Attributes:
        name: Of the system, as in the table.
        url: Root of its OpenAI-compatible API.
        model: The served model.
        api_key: Sent with the first requests, if the server wants one.
        start_s: Seconds from the start of its first process to the first served request.
    """

    name: str
    start_timeout_s = 60.0

    def __init__(self, *, delay_ms: float):
        """Describe the server.

        Args:
            delay_ms: Milliseconds per decode step of its simulated engine; 0 = as fast as it can.
        """
        self.delay_ms = delay_ms
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.model = ""
        self.api_key = ""
        self.start_s = 0.0
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @abstractmethod
    def start(self, home: Path) -> None:
        """Start the processes with :meth:`spawn`, in the empty folder ``home``; don't wait."""

    @abstractmethod
    def groups(self) -> dict[str, set[int]]:
        """Process ids by role: ``frontend``, ``worker`` and others."""

    def spawn(self, role: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start a process in a group of its own; its output goes to ``<home>/<role>.log``."""
        with (self.home / f"{role}.log").open("wb") as log:
            self._processes[role] = subprocess.Popen(
                argv,
                env={**clean_environment(), **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # No session of its own: Linux shares time among sessions first (autogroup), and the load generator
                # beside an engine that waits by spinning would be starved.
                process_group=0,
            )

    def pid(self, role: str) -> int:
        """Process id of a spawned process."""
        return self._processes[role].pid

    def __enter__(self) -> Self:
        """Start, and wait until a request is served."""
        self._folder = tempfile.TemporaryDirectory(prefix="dynamo-tasks-bench-", ignore_cleanup_errors=True)
        self.home = Path(self._folder.name)
        began = time.perf_counter()
        try:
            self.start(self.home)
            self._wait_until_served(began + self.start_timeout_s)
        except BaseException:
            self._stop()
            raise
        self.start_s = time.perf_counter() - began
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop every process."""
        self._stop()

    def _wait_until_served(self, deadline: float) -> None:
        while not self._serves():
            for role, process in self._processes.items():
                if process.poll() is not None:
                    raise TargetError(f"{self.name}: {role} ended ({process.returncode}): {self.log(role)}")
            if time.perf_counter() > deadline:
                logs = "; ".join(f"{role}: {self.log(role)}" for role in self._processes)
                raise TargetError(f"{self.name} serves nothing after {self.start_timeout_s:g} s; {logs}")
            time.sleep(_POLL_S)

    def _serves(self) -> bool:
        # urllib's HTTPError (503 while starting) is an OSError too.
        with suppress(OSError, ValueError):
            models = get_json(f"{self.url}/v1/models", headers=self._headers())["data"]
            if models:
                self.model = models[0]["id"]
                return self._answers()
        return False

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def _answers(self) -> bool:
        body = {"model": self.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json", **self._headers()},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bool(json.load(answer)["choices"])

    def log(self, role: str, chars: int = 1500) -> str:
        """The end of a process's output."""
        return (self.home / f"{role}.log").read_text(errors="replace")[-chars:].strip()

    def _stop(self) -> None:
        for process in reversed(self._processes.values()):
            process.send_signal(signal.SIGTERM)
        deadline = time.perf_counter() + _STOP_S
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.perf_counter()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._processes.clear()
        self._folder.cleanup()


def clean_environment() -> dict[str, str]:
    """Ours, without settings that would change what is measured."""
    return {
        name: value for name, value in os.environ.items() if not name.upper().startswith(("DYNAMO_", "DYN_"))
    }
