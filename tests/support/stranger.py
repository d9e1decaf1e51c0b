"""Somebody who has only installed the package: a folder with files of theirs, and the commands of the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.processes import START, Process, until

__all__ = ["Folder", "Program", "service_of"]

BIN = Path(sys.executable).parent


_SERVICE = """
from collections.abc import AsyncIterator
from dynamo_tasks import dynamo_endpoint, service

@service(dynamo={"namespace": "NAMESPACE"})
class W:
    @dynamo_endpoint
    async def add1(self, request: dict) -> dict:
        return {"x": request["x"] + 1}

    @dynamo_endpoint
    async def tell(self, count: int) -> AsyncIterator[str]:
        for number in range(count):
            yield f"w{number}"

    @dynamo_endpoint
    async def total(self, parts: list) -> int:
        return sum(part["x"] for part in parts)

    @dynamo_endpoint
    async def fails(self, request: dict) -> int:
        raise ValueError("no")
"""


def service_of(namespace: str, more: str = "") -> str:
    """The text of somebody's module with a service ``W``.

    Args:
        namespace: Its namespace.
        more: Endpoints besides, or in the place of those that it has.
    """
    return _SERVICE.replace("NAMESPACE", namespace) + more


class Program(Process):
    """One of the environment's commands, in somebody's folder; ready once its output has a line."""

    def __init__(self, argv: list[str], env: dict[str, str], cwd: Path, ready: str, wait: bool):
        self._ready = ready
        super().__init__(argv, env, name=Path(argv[0]).name, cwd=cwd, wait=wait)

    def wait_ready(self, timeout: float = START) -> None:
        until(lambda: self._ready in self.output or not self.alive, timeout, lambda: f"ready: {self.output}")
        assert self.alive, self.output


class Folder:
    """A project of somebody's.

    Args:
        path: Where it is.
        **files: Name of a module → its text.
    """

    def __init__(self, path: Path, **files: str):
        self.path = path
        for name, text in files.items():
            (path / f"{name}.py").write_text(text)

    def environment(self, **env: str) -> dict[str, str]:
        """Nothing of the tests' own."""
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("DYNAMO_")}
        # Celery asks for it where messages are pickled, as tests are run by root in a container.
        return {**kept, "PATH": f"{BIN}{os.pathsep}{kept['PATH']}", "C_FORCE_ROOT": "1", **env}

    def start(self, *argv: str, ready: str = "ready.", wait: bool = True, **env: str) -> Program:
        """Start a command in the folder; entered once ``ready`` is in its output."""
        return Program([str(BIN / argv[0]), *argv[1:]], self.environment(**env), self.path, ready, wait)

    def celery(self, *arguments: str, ready: str = "ready.", wait: bool = True, **env: str) -> Program:
        """``celery`` as it is typed."""
        return self.start("celery", *arguments, ready=ready, wait=wait, **env)

    def python(self, script: str, *arguments: str, timeout: float = 100.0, **env: str) -> Any:
        """Run a script of the folder; what its last line says, as JSON."""
        done = subprocess.run(
            [str(BIN / "python"), script, *arguments], cwd=self.path, env=self.environment(**env),
            capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.strip().splitlines()[-1])
