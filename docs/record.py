"""Records ``docs/quickstart.svg`` from a real run: serve, curl, call, status.

    python docs/record.py [--port 8000]

Only the path of the temporary home and the name of the machine are replaced in what is shown.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

__all__ = ["main"]

OUT = Path(__file__).with_name("quickstart.svg")
WIDTH = 116
SAY = "Tokens are a log: read them live, again, or from where you left off."
ASK = f'{{"model": "echo", "stream": true, "messages": [{{"role": "user", "content": "{SAY}"}}]}}'


class Recording:
    """A terminal session on a machine of its own, so to speak."""

    def __init__(self, home: str):
        self.console = Console(
            record=True, width=WIDTH, force_terminal=True, color_system="truecolor", highlight=False
        )
        self.env = {**os.environ, "DYNAMO_HOME": home, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)}
        self.env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._home = home

    def show(self, line: str) -> None:
        """A line of output, with its colours."""
        line = line.replace(self._home, "~/.dynamo-tasks").replace(f"@{socket.gethostname()}", "@localhost")
        self.console.print(Text.from_ansi(line.rstrip()), overflow="fold")

    def typed(self, command: str) -> None:
        """A line as the user types it."""
        self.console.print(Text.assemble(("$ ", "bold green"), (command, "bold")), overflow="fold")

    def run(self, command: str) -> None:
        """Run a command and show it with its output."""
        self.console.print()
        self.typed(command)
        done = subprocess.run(
            ["bash", "-c", command], env=self.env, capture_output=True, text=True, check=True
        )
        for line in done.stdout.splitlines():
            self.show(line)


def serve(recording: Recording, port: int) -> subprocess.Popen[str]:
    """Start the server; shows its lines up to the one to paste."""
    options = [] if port == 8000 else ["--port", str(port)]
    recording.typed(" ".join(["dynamo-tasks serve", *options]))
    process = subprocess.Popen(
        ["dynamo-tasks", "serve", *options],
        env=recording.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        recording.show(line)
        if Text.from_ansi(line).plain.startswith("try "):
            return process
    raise SystemExit("serve has ended")


def main() -> None:
    """Record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    port = parser.parse_args().port
    with tempfile.TemporaryDirectory() as home:
        recording = Recording(home)
        process = serve(recording, port)
        try:
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            recording.run(
                f"curl -sN {url} -H 'Content-Type: application/json' -d '{ASK}' "
                """| grep -oE '^id: .*|"content":"[^"]+"|\\[DONE\\]'"""
            )
            recording.run(
                """dynamo-tasks call dynamo.Worker.generate '{"prompt": "The same, through the queue."}'"""
            )
            time.sleep(1)  # the rate is that of the last second
            recording.run("dynamo-tasks status")
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
    recording.console.save_svg(str(OUT), title="dynamo-tasks")


if __name__ == "__main__":
    main()
