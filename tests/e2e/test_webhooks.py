"""Webhooks: batches and responses that have ended are told, signed, until somebody takes it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.batches import BatchPlace, background_of, batch_place, chat_line
from tests.support.processes import ROOT, environment, until
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NAMESPACE = "webhooks"


class Receiver:
    """A server that takes webhooks, but the first ones of each event."""

    def __init__(self, refused: int = 0):
        self.taken: list[tuple[bytes, dict[str, str]]] = []
        self.refusals: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                event = self.headers["webhook-id"]
                if self.path == "/elsewhere":
                    outer.refusals.append("followed a redirect")
                if outer.refusals.count(event) < refused:
                    outer.refusals.append(event)
                    self.send_response(307)
                    self.send_header("location", "/elsewhere")
                else:
                    outer.taken.append((body, dict(self.headers)))
                    self.send_response(200)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def event(self, name: str) -> Any:
        """The verified event about an object, once it is there; by the real client."""
        client = openai.OpenAI(api_key="-", webhook_secret=SECRET)

        def look() -> Any:
            found = [client.webhooks.unwrap(body, headers) for body, headers in self.taken]
            return next((one for one in found if one.data.id == name), None)

        return until(look, 90, lambda: f"{name} in {self.taken}, refused {self.refusals}")


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver(refused=1)
    yield made
    made.server.shutdown()


@pytest.fixture(scope="module")
def place(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory, receiver: Receiver
) -> Iterator[BatchPlace]:
    env = {"DYNAMO_WEBHOOK_URL": receiver.url, "DYNAMO_WEBHOOK_SECRET": SECRET}
    with batch_place(redis_server, tmp_path_factory.mktemp("files"), NAMESPACE, env=env) as made:
        yield made
        output = made.background.output + made.frontend.output + made.worker.output
        assert SECRET not in output
        assert "Traceback" not in output


def test_ends_of_batches(place: BatchPlace, receiver: Receiver) -> None:
    good, bad = place.submit([chat_line("a", "hi")]), place.submit(["{nonsense"])
    gone = place.submit([chat_line("a", "hi", tokens=9000)])
    until(lambda: place.client.batches.retrieve(gone.id).status == "in_progress", 60)
    place.client.batches.cancel(gone.id)
    late = place.submit([chat_line("a", "hi", tokens=9000)], window="2s")
    for batch, kind in ((good, "completed"), (bad, "failed"), (gone, "cancelled"), (late, "expired")):
        found = receiver.event(batch.id)
        assert (found.type, found.object) == (f"batch.{kind}", "event")
    assert "followed a redirect" not in receiver.refusals
    ids = [json.loads(body)["id"] for body, _ in receiver.taken]
    assert len(ids) == len(set(ids))
    assert set(ids) <= set(receiver.refusals)  # each was refused once, and told again


@pytest.mark.parametrize(("tokens", "kind"), [(16, "incomplete"), (9000, "cancelled")])
def test_ends_of_responses(place: BatchPlace, receiver: Receiver, tokens: int, kind: str) -> None:
    made = place.client.responses.create(
        model="mocker", input="hi", background=True, max_output_tokens=tokens
    )
    if kind == "cancelled":
        place.client.responses.cancel(made.id)
    found = receiver.event(made.id)
    assert found.type == f"response.{kind}"


def test_a_killed_background_tells_all_the_same(place: BatchPlace, receiver: Receiver) -> None:
    made = place.client.responses.create(model="mocker", input="hi", background=True, max_output_tokens=400)
    batch = place.submit([chat_line(f"q{i}", "hi", tokens=200) for i in range(20)])
    place.background.kill()
    with background_of(place.server.url, place.env):
        assert receiver.event(made.id).type == "response.incomplete"
        assert receiver.event(batch.id).type == "batch.completed"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ('Background.webhooks=[{"url": "ftp://x/"}]', "http or https"),
        ('Background.webhooks=[{"url": "https://x/", "secret": "whsec_"}]', "whsec_"),
        ('Background.webhooks=[{"url": "https://x/", "events": ["batch.begun"]}]', "batch.completed"),
        ('Background.webhooks=[{"url": "https://me:pw@x/"}]', "password"),
        ('Background.webhooks=[{"uri": "https://x/"}]', "url, secret, events"),
    ],
)
def test_mistakes_are_refused_at_the_start(tmp_path: Path, settings: str, text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dynamo_tasks", "serve", "--dry-run", f"--{settings}"], cwd=ROOT, text=True,
        env=environment("", DYNAMO_HOME=str(tmp_path)), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout
    assert text in done.stderr
    assert "pw" not in done.stderr.replace("password", "")
