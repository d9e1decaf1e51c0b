"""Takes the pictures of the live page: ``python docs/record_page.py`` (needs playwright and Chromium)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
from playwright.sync_api import sync_playwright

from dynamo_tasks.config.host.home import Home
from dynamo_tasks.config.host.redis_server import running_url
from tests.support.batches import chat_line
from tests.support.dead import make_dead
from tests.support.serve import Serve
from tests.support.web import events

HERE = Path(__file__).parent
CORNER = {"x": 0, "y": 0, "width": 1180}
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


def busiest(serve: Serve) -> int:
    """Process id of the worker that runs most."""
    with ThreadPoolExecutor(1) as thread:  # the browser has a loop in ours
        instances = thread.submit(serve.instances).result()
    workers = [one for one in instances if one["component"] == "Worker"]
    return int(max(workers, key=lambda one: one["in_flight"])["pid"])


def worker_pids(home: Path) -> list[int]:
    """The process ids of the workers."""
    [state] = (home / "serve").glob("*.json")
    return [
        row["pid"] for row in json.loads(state.read_text())["processes"] if row["name"].startswith("Worker")
    ]


def batches(port: int) -> None:
    """One batch that has ended, one with a line that failed, one with a mistake in its input, and one that runs."""
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="-")
    good = [chat_line(f"q{n}", f"question {n}") for n in range(60)]
    bad = [*good, chat_line("q60", "question 60", temperature=99)]
    wrong = [*good, "no JSON"]
    long = [chat_line(f"q{n}", f"question {n}", tokens=40 + 40 * (n % 40)) for n in range(400)]
    for lines in (good, bad, wrong, long):
        raw = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines).encode()
        file = client.files.create(file=("lines.jsonl", raw), purpose="batch")
        client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")


def dead_letters(home: Path) -> None:
    """Some requests that have used up their attempts."""
    for _ in range(3):
        make_dead(running_url(Home(home)) or "", namespace="nightly")


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
        os.kill(busiest(serve), signal.SIGKILL)
        page.wait_for_timeout(6000)
        page.screenshot(path=HERE / "page.png")
        dead_letters(serve.home)
        batches(port)
        page.goto(f"http://127.0.0.1:{port}/#batches")
        page.wait_for_function("() => document.querySelectorAll('#batch-rows tbody tr').length === 4")
        page.wait_for_timeout(12000)
        page.screenshot(path=HERE / "batches.png", clip={**CORNER, "height": 280})
        page.goto(f"http://127.0.0.1:{port}/#requests")
        page.wait_for_timeout(2000)
        page.screenshot(path=HERE / "requests.png", clip={**CORNER, "height": 560})
        page.goto(f"http://127.0.0.1:{port}/#playground")
        page.wait_for_function("() => document.getElementById('model').value === 'mocker'")
        page.fill("#message", "Tell me a story")
        page.click("#send")
        page.wait_for_timeout(3000)
        for pid in worker_pids(serve.home):
            os.kill(pid, signal.SIGKILL)
        page.wait_for_selector(".gap")
        page.wait_for_function("() => !document.getElementById('send').disabled", timeout=60_000)
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=HERE / "playground.png", full_page=True)
        browser.close()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
