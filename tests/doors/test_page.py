"""The live page in a real browser: what it shows, and that the playground's answers survive a reload and kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from dynamo_tasks.config.host.home import Home
from dynamo_tasks.config.host.redis_server import running_url
from tests.support.batches import chat_line
from tests.support.dead import make_dead
from tests.support.processes import until
from tests.support.serve import Serve
from tests.support.web import ask, look

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.doors,
    pytest.mark.timeout(400),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
playwright = pytest.importorskip("playwright.sync_api")
PACED = ("--Worker.engine=mocker", "--Worker.engine_args.token_delay_ms=25", "--Worker.ServiceArgs.workers=2")
PATIENCE = 60_000


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with Serve(tmp_path_factory.mktemp("home"), *PACED) as started:
        yield started


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, serve: Serve) -> Iterator[Any]:
    """A page that has no errors of its own: those of scripts, and of what its policy forbids."""
    context = chromium.new_context(viewport={"width": 1180, "height": 860})
    page, wrong = context.new_page(), []
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda one: wrong.append(one.text) if "Content Security Policy" in one.text else None)
    yield page
    context.close()
    assert wrong == []


def port_of(serve: Serve) -> int:
    return int(serve.line("ready ").split(":")[2].split()[0])


def pids_of(serve: Serve, service: str) -> list[int]:
    [state] = (serve.home / "serve").glob("*.json")
    found = json.loads(state.read_text())
    return [row["pid"] for row in found["processes"] if row["name"].startswith(service)]


def url_of(serve: Serve, view: str = "") -> str:
    return f"http://127.0.0.1:{port_of(serve)}/{view}"


def chat(serve: Serve, text: str, tokens: int) -> str:
    body = {"model": "mocker", "messages": [{"role": "user", "content": text}], "max_tokens": tokens}
    status, _, answer = ask(port_of(serve), "POST", "/v1/chat/completions", body)
    assert status == 200, answer
    return str(answer["choices"][0]["message"]["content"])


def start_chat(page: Any, text: str, tokens: int) -> None:
    page.wait_for_function("() => document.getElementById('model').value === 'mocker'")
    page.fill("#max-tokens", str(tokens))
    page.fill("#message", text)
    page.click("#send")
    page.wait_for_function("() => document.querySelector('.turn.assistant')?.textContent.length > 60")


def answer_of(page: Any) -> str:
    """The last answer once it is whole, without what the page says of gaps."""
    page.wait_for_function("() => !document.getElementById('send').disabled")
    return str(
        page.evaluate(
            """() => {
              const turn = [...document.querySelectorAll(".turn.assistant")].pop().cloneNode(true);
              turn.querySelectorAll("small, .gap").forEach((part) => part.remove());
              return turn.textContent;
            }"""
        )
    )


def test_the_overview_shows_every_instance_and_the_load(page: Any, serve: Serve) -> None:
    page.goto(url_of(serve))
    page.wait_for_function("() => document.querySelectorAll('#topology tbody tr').length >= 2")
    text = page.inner_text("#topology")
    assert "Worker" in text
    assert all(str(pid) in text for pid in pids_of(serve, "Worker"))
    assert "live" in page.inner_text("#link")
    chat(serve, "some load", 40)
    page.wait_for_function(
        "() => [...document.querySelectorAll('#plots canvas')].some((one) => /p50 [0-9]/.test(one.ariaLabel))"
    )
    assert page.get_by_role("heading", name="Components").is_visible()


def test_an_answer_survives_a_reload(page: Any, serve: Serve) -> None:
    page.goto(url_of(serve, "#playground"))
    start_chat(page, "reload me", 160)
    page.reload()
    assert answer_of(page) == chat(serve, "reload me", 160)


@pytest.mark.parametrize("service", ["Worker", "Frontend"])
def test_an_answer_survives_a_kill(service: str, page: Any, serve: Serve) -> None:
    page.goto(url_of(serve, "#playground"))
    text = f"kill the {service}"
    start_chat(page, text, 240)
    for pid in pids_of(serve, service):
        os.kill(pid, signal.SIGKILL)
    got = answer_of(page)
    shown = page.inner_text("#thread .turn.assistant .gap >> nth=0")
    assert ("attempt" if service == "Worker" else "connect") in shown
    until(lambda: look(port_of(serve), "/ready")[0] == 200, 60, "everything is up again")
    assert got == chat(serve, text, 240)


def test_a_request_can_be_watched_and_cancelled(page: Any, serve: Serve) -> None:
    body = {"model": "mocker", "prompt": "long", "max_tokens": 4000, "background": True}
    status, _, made = ask(port_of(serve), "POST", "/v1/completions", body)
    assert status == 202
    page.goto(url_of(serve, "#requests"))
    page.get_by_role("button", name=f"Watch request {made['id']}").first.click()
    page.wait_for_function("() => document.querySelector('#watch .text').textContent.length > 40")
    page.get_by_role("button", name="Cancel request", exact=True).click()
    page.wait_for_function("() => /ended/.test(document.querySelector('#watch-body .dim').textContent)")
    assert look(port_of(serve), f"/v1/requests/{made['id']}")[1]["status"] == "cancelled"
    page.keyboard.press("Escape")
    assert page.locator("#watch").is_hidden()


def test_a_batch_is_followed_and_cancelled_by_keyboard(page: Any, serve: Serve) -> None:
    client = openai.OpenAI(api_key="-", base_url=url_of(serve, "v1"))
    lines = "\n".join(json.dumps(chat_line(f"q{i}", f"question {i}", 200)) for i in range(3000))
    file = client.files.create(file=("in.jsonl", lines.encode()), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    page.goto(url_of(serve, "#batches"))
    row = page.locator("#batch-rows tbody tr", has_text=made.id)
    row.locator(".meter").wait_for()
    assert "of 3,000" in row.inner_text()
    cancel = page.get_by_role("button", name=f"Cancel batch {made.id}")
    cancel.focus()
    before = row.element_handle()
    page.wait_for_function("(before) => !before.isConnected", arg=before)  # another snapshot is shown
    assert page.evaluate("document.activeElement.ariaLabel") == f"Cancel batch {made.id}"
    page.keyboard.press("Enter")
    row.get_by_text("cancelled").wait_for()
    assert cancel.count() == 0
    assert client.batches.retrieve(made.id).status == "cancelled"


def test_a_dead_letter_is_shown_and_tried_again(page: Any, serve: Serve) -> None:
    url = running_url(Home.from_environ({"DYNAMO_HOME": str(serve.home)}))
    assert url is not None
    request_id = make_dead(url)
    page.goto(url_of(serve))
    page.get_by_role("definition").get_by_role("link", name="1").click()
    row = page.locator("#dead tbody tr", has_text=request_id)
    row.wait_for()
    assert "lost its worker" in row.inner_text()
    page.get_by_role("button", name=f"Retry request {request_id}").click()
    row.wait_for(state="detached")
    page.locator("#running tbody tr", has_text=request_id).wait_for()


def test_the_same_call_runs_as_it_is_shown(page: Any, serve: Serve, tmp_path: Path) -> None:
    page.goto(url_of(serve, "#playground"))
    page.wait_for_function("() => document.getElementById('model').value === 'mocker'")
    page.fill("#max-tokens", "5")
    page.fill("#message", 'it\'s "quoted"\nand has two lines')
    page.wait_for_function("() => document.getElementById('code').textContent.includes('two lines')")
    script = tmp_path / "call.sh"
    script.write_text(page.inner_text("#code"))
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.rstrip().endswith("data: [DONE]"), done
    page.get_by_role("tab", name="Python").click()
    compile(page.inner_text("#code"), "python", "exec")
    page.get_by_role("tab", name=".delay()").click()
    compile(page.inner_text("#code"), "delay", "exec")


def test_it_fits_a_phone_in_the_dark(chromium: Any, serve: Serve) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page = context.new_page()
    for view in ("", "#requests", "#batches", "#playground"):
        page.goto(url_of(serve, view))
        page.wait_for_function("() => document.getElementById('link').className.includes('up')")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, view
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(15, 20, 27)"
    context.close()


def test_everything_can_be_reached_by_keyboard(page: Any, serve: Serve) -> None:
    page.goto(url_of(serve))
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent"))
    assert reached[:5] == ["Skip to content", "Overview", "Requests", "Batches", "Playground"]
