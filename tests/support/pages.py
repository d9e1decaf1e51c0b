"""Pages of the documents, run: their files are written and their commands typed, in order, against real processes.

What a block is, its fence and the comment above it say (CONTRIBUTING.md, "Pages that are run"):

====================================  ==========================================================
```` ```bash ````                     typed; its exit status must be 0
```` ```python title="shop.py" ````   a file; likewise for other languages with a title
```` ```python ````                   a program, run with this interpreter
any other fence                       shown, not run
``<!-- server: REGEX -->``            goes on in the background, once its output matches
``<!-- stop -->``                     Ctrl-C for what runs in the background
``<!-- prints: REGEX -->``            what the next block must print
``<!-- not run: why -->``             the next block is left out
====================================  ==========================================================
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support.processes import ROOT, START, Process, until
from tests.support.server import free_port

__all__ = ["Block", "Page", "blocks"]

_PARTS = re.compile(
    r"^<!-- (?P<order>server|stop|prints|not run)(?:: (?P<value>.*?))? -->$"
    r"|^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block and what the comments above it ask for."""

    language: str
    title: str | None
    text: str
    orders: dict[str, str]


def blocks(path: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found: list[Block] = []
    orders: dict[str, str] = {}
    for part in _PARTS.finditer(path.read_text()):
        if part["order"]:
            orders[part["order"]] = part["value"] or ""
        else:
            found.append(Block(part["language"], part["title"], part["text"], orders))
            orders = {}
    if orders:  # a last `stop`
        found.append(Block("", None, "", orders))
    return found


class Page:
    """A page in a folder of its own: its ports are free ones, its Redis is a test's.

    Args:
        path: Of the page.
        folder: Where it is run.
        redis_url: In place of ``redis://localhost:6379/3``.
    """

    def __init__(self, path: Path, folder: Path, redis_url: str):
        self.path = path
        self.folder = folder
        self._swaps = {
            ":8000": f":{free_port()}",
            "9000": str(free_port()),
            "redis://localhost:6379/3": redis_url,
        }
        self._servers: list[Process] = []
        python_path = os.pathsep.join([str(folder), str(ROOT)])
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DYNAMO_")}
        self._env = {
            **kept, "DYNAMO_HOME": str(folder / ".home"), "PYTHONPATH": python_path, "PYTHONUNBUFFERED": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
        }  # fmt: skip

    def run(self) -> None:
        """Run all blocks; whatever goes on in the background is ended with it."""
        try:
            for block in blocks(self.path):
                self._do(block)
        finally:
            self.stop()

    def stop(self) -> None:
        """Ctrl-C for all that runs in the background."""
        for server in reversed(self._servers):
            if server.alive:
                server.signal(signal.SIGINT)
        for server in self._servers:
            try:
                server.popen.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
            server.log.unlink(missing_ok=True)
        self._servers.clear()

    def _do(self, block: Block) -> None:
        if "stop" in block.orders:
            self.stop()
        if "not run" in block.orders:
            return
        text = self._swapped(block.text)
        if block.title:
            (self.folder / block.title).write_text(text)
        elif "server" in block.orders:
            self._serve(text, block.orders["server"] or "ready")
        elif block.language in ("bash", "python"):
            self._type(block, text)

    def _swapped(self, text: str) -> str:
        for written, ours in self._swaps.items():
            text = text.replace(written, ours)
        port = self._swaps[":8000"][1:]
        return re.sub(r"^(.*dynamo-tasks serve)", rf"\1 --port {port}", text, flags=re.MULTILINE)

    def _serve(self, text: str, ready: str) -> None:
        # exec: a signal reaches the command itself
        argv = ["bash", "-c", re.sub(r"^((?:\w+=\S+ )*)", r"\1exec ", text.strip())]
        server = Process(argv, self._env, name="page", cwd=self.folder)
        self._servers.append(server)
        pattern = re.compile(ready, re.MULTILINE)
        until(
            lambda: pattern.search(server.output) or not server.alive,
            START,
            lambda: f"{text}\n{server.output}",
        )
        assert server.alive, f"{text}\n{server.output}"

    def _type(self, block: Block, text: str) -> None:
        if block.language == "bash":
            # What it exports is there for the next block, as in one shell.
            state = self.folder / ".exports"
            text = f"set -ea -o pipefail; [ ! -f {state} ] || . {state}\n{text}\nexport -p > {state}"
        argv = ["bash", "-c", text] if block.language == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(
            argv, env=self._env, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False
        )  # fmt: skip
        told = f"{self.path.name}: {block.text}\n{done.stdout}\n{done.stderr}\n" + "\n".join(
            server.output[-3000:] for server in self._servers
        )
        assert done.returncode == 0, told
        assert re.search(block.orders.get("prints", ""), done.stdout, re.DOTALL | re.MULTILINE), told
