"""A real browser: a page of another origin talks to a server with keys, and may not talk to one without."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from tests.support.serve import Serve
from tests.support.web import look

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.doors,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

STREAMING = """
const api = "http://127.0.0.1:%(port)d", key = {"Authorization": "Bearer page-key"};
const body = JSON.stringify({model: "echo", stream: true, retention: 60,
                             messages: [{role: "user", content: "a few words for the page"}]});
const sent = await fetch(api + "/v1/chat/completions",
                         {method: "POST", headers: {...key, "Content-Type": "application/json"}, body});
const id = sent.headers.get("x-request-id"), text = await sent.text();
const made = await fetch(`${api}/v1/requests/${id}/stream-token`, {method: "POST", headers: key});
const url = api + (await made.json()).stream;
const seen = [];
let opened = 0;
const closed = await new Promise((resolve) => {
  const source = new EventSource(url);
  source.onopen = () => { opened++; };
  source.onmessage = (event) => { seen.push([event.lastEventId, event.data]); };
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) resolve(true); };
  setTimeout(() => resolve(false), 30000);
});
const wrong = await fetch(api + "/v1/models", {headers: {"Authorization": "Bearer wrong"}});
return {id, status: sent.status, text, seen, opened, closed, wrong: wrong.status};
"""

FOREIGN = """
const api = "http://127.0.0.1:%(port)d", body = JSON.stringify({model: "echo", prompt: "for nothing"});
const found = {};
const plain = await fetch(api + "/v1/completions", {method: "POST", mode: "no-cors", body});
found.plain = plain.type;
for (const [name, ask] of Object.entries({
  cors: () => fetch(api + "/v1/models"),
  json: () => fetch(api + "/v1/completions", {method: "POST", headers: {"Content-Type": "application/json"}, body}),
  remove: () => fetch(api + "/v1/requests/x", {method: "DELETE"}),
})) {
  try { found[name] = (await ask()).status; } catch (error) { found[name] = error.name; }
}
const image = new Image();
found.image = await new Promise((resolve) => {
  image.onload = () => resolve("loaded"); image.onerror = () => resolve("refused"); image.src = api + "/v1/models";
});
navigator.sendBeacon(api + "/v1/completions", body);
return found;
"""


class _Page(BaseHTTPRequestHandler):
    """Serves one page, which posts what it found."""

    script = ""
    found: Queue[Any]

    def do_GET(self) -> None:
        page = f"""<!doctype html><script type="module">
        const work = async () => {{ {self.script} }};
        const found = await work().catch((error) => ({{error: String(error)}}));
        await fetch("/found", {{method: "POST", body: JSON.stringify(found)}});
        </script>"""
        self._answer(page.encode())

    def do_POST(self) -> None:
        self.found.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def page() -> Iterator[tuple[ThreadingHTTPServer, Queue[Any]]]:
    """A web site of somebody else's; its handler's ``script`` is set before it is visited."""
    found: Queue[Any] = Queue()
    handler = type("Page", (_Page,), {"found": found})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server, found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def visit(server: ThreadingHTTPServer, found: Queue[Any], script: str, folder: Path) -> dict[str, Any]:
    """What the page found, in a browser that had never been there."""
    server.RequestHandlerClass.script = script  # type: ignore[attr-defined]
    argv = [
        str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--remote-debugging-port=0", f"--user-data-dir={folder}", f"http://localhost:{server.server_port}/",
    ]  # fmt: skip
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            return dict(found.get(timeout=100))
        finally:
            browser.terminate()


def test_a_page_streams_resumes_with_a_token_and_stops_at_the_end(tmp_path: Path) -> None:
    with page() as (site, found):
        origin = f"http://localhost:{site.server_port}"
        pages = f'--Frontend.cors_origins=["{origin}"]'
        with Serve(tmp_path / "home", "--api-key", "page-key", pages) as serve:
            told = visit(site, found, STREAMING % {"port": serve.port}, tmp_path / "profile")
    assert told["status"] == 200, told
    chunks = [json.loads(data) for _, data in told["seen"][:-1]]
    said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert said == "a few words for the page"
    assert told["seen"][-1][1] == "[DONE]"
    assert len({event for event, _ in told["seen"]}) == len(told["seen"])  # nothing came twice
    assert told["text"].endswith("data: [DONE]\n\n")
    assert (told["opened"], told["closed"], told["wrong"]) == (1, True, 401)


def test_a_page_cannot_use_a_server_without_keys(tmp_path: Path) -> None:
    with page() as (site, found), Serve(tmp_path / "home") as serve:
        told = visit(site, found, FOREIGN % {"port": serve.port}, tmp_path / "profile")
        assert told == {
            "plain": "opaque", "cors": "TypeError", "json": "TypeError", "remove": "TypeError", "image": "refused",
        }  # fmt: skip
        metrics = look(serve.port, "/metrics")[1].decode()
        assert "requests_submitted_total{" not in metrics, metrics
        assert 'http_requests_total{api="completions",status="403"}' in metrics
