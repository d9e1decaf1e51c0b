"""Takes the pictures of the live page: ``python docs/record_page.py`` (needs playwright and Chromium)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.support.serve import Serve
from tests.support.web import events

HERE = Path(__file__).parent
PACED = ("--Worker.engine=mocker", "--Worker.engine_args.token_delay_ms=30", "--Worker.ServiceArgs.workers=3")


def load(port: int, streams: int, tokens: int) -> list[threading.Thread]:
    """Begin some chats."""

    def chat(number: int) -> None:
        messages = [{"role": "user", "content": f"Request {number}"}]
        body = {"model": "mocker", "stream": True, "max_tokens": tokens, "messages": messages}
        list(events(port, "POST", "/v1/chat/completions", body))

    threads = [threading.Thread(target=chat, args=(number,)) for number in range(streams)]
    for thread in threads:
        thread.start()
    return threads


def worker_pids(home: Path) -> list[int]:
    """The process ids of the workers."""
    [state] = (home / "serve").glob("*.json")
    return [
        row["pid"] for row in json.loads(state.read_text())["processes"] if row["name"].startswith("Worker")
    ]


def main() -> None:
    """Serve, load, kill a worker, take the pictures."""
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as runner,
        Serve(Path(folder), *PACED) as serve,
    ):
        port = int(serve.line("ready ").split(":")[2].split()[0])
        browser = runner.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 800}, device_scale_factor=1)
        page.goto(f"http://127.0.0.1:{port}/")
        threads = [*load(port, 30, 500), *load(port, 20, 900)]
        page.wait_for_timeout(9000)
        os.kill(worker_pids(serve.home)[0], signal.SIGKILL)
        page.wait_for_timeout(6000)
        page.screenshot(path=HERE / "page.png")
        page.goto(f"http://127.0.0.1:{port}/#playground")
        page.wait_for_function("() => document.getElementById('model').value === 'mocker'")
        page.fill("#message", "Tell me a story")
        page.click("#send")
        page.wait_for_timeout(3000)
        for pid in worker_pids(serve.home):
            os.kill(pid, signal.SIGKILL)
        page.wait_for_selector(".gap")
        page.wait_for_function("() => !document.getElementById('send').disabled", timeout=60_000)
        page.screenshot(path=HERE / "playground.png", full_page=True)
        browser.close()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
