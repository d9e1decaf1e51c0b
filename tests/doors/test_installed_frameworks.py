"""Flask behind gunicorn, FastAPI behind uvicorn, and workers of every pool beside ours: callers of one application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.support import web
from tests.support.processes import START, together, until
from tests.support.server import RedisServer, free_port
from tests.support.stranger import Folder, service_of

for module in ("flask", "fastapi", "gunicorn", "gevent"):
    pytest.importorskip(module)
pytestmark = [pytest.mark.slow, pytest.mark.doors]

NAMED = """
    @dynamo_endpoint
    async def add1(self, request: dict) -> dict:
        from flask import current_app
        return {"x": request["x"] + 1, "app": current_app.name}
"""
FLASK = """
import os
from celery import Celery, Task
from flask import Flask, Response, jsonify
import dynamo_tasks

flask_app = Flask("shop")

class FlaskTask(Task):
    def __call__(self, *args, **kwargs):
        with flask_app.app_context():
            return self.run(*args, **kwargs)

app = Celery("shop", task_cls=FlaskTask, broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.set_default()
dynamo_tasks.install(app, "svc:W")
from svc import W

if "PRELOAD" in os.environ:
    W.add1.delay({"x": 0}).get(timeout=60)

@flask_app.get("/add/<int:number>")
def add(number):
    return jsonify(W.add1.delay({"x": number}).get(timeout=60))

@flask_app.get("/tell/<int:count>")
def tell(count):
    return Response(W.tell.delay(count), mimetype="text/plain")

@app.task
def poem(count):
    added = W.add1.delay({"x": count}).get(timeout=60, disable_sync_subtasks=False)
    return "".join(W.tell.delay(count)) + str(added["x"])
"""
FASTAPI = """
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
import flask_app
from svc import W

api = FastAPI()

@api.get("/add/{number}")
async def add(number: int):
    return await W.add1.delay({"x": number})

@api.get("/tell/{count}")
async def tell(count: int):
    return StreamingResponse(aiter(W.tell.delay(count)), media_type="text/plain")
"""
ASK = """
import json
from flask_app import poem
calls = {pool: poem.apply_async((2,), queue=pool) for pool in ("prefork", "gevent", "threads", "solo")}
print(json.dumps({pool: call.get(timeout=80) for pool, call in calls.items()}))
"""


class Ports(NamedTuple):
    flask: int
    fastapi: int
    folder: Folder
    env: dict[str, str]


@pytest.fixture(scope="module")
def ports(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    folder = Folder(
        tmp_path_factory.mktemp("web"), svc=service_of("web", NAMED), flask_app=FLASK, api=FASTAPI, ask=ASK
    )
    env = {"BROKER": redis_server.url.removesuffix("0") + "12"}
    one, two = free_port(), free_port()
    worker = ("-A", "flask_app", "worker", "-l", "info")
    with folder.celery(*worker, "--service", "svc:W", "-n", "svc@%h", **env):
        web_servers = (
            folder.start(
                "gunicorn", "flask_app:flask_app", "--preload", "-w", "2", "-b", f"127.0.0.1:{one}",
                ready="Booting worker", PRELOAD="1", **env,
            ),
            folder.start("uvicorn", "api:api", "--port", str(two), ready="running on", **env),
        )  # fmt: skip
        with together(*web_servers):
            yield Ports(one, two, folder, env)


def _get(port: int, path: str) -> Any:
    status, body = until(lambda: (found := web.look(port, path))[0] and found, START)
    assert status == 200, body
    return body


@pytest.mark.parametrize("which", ["flask", "fastapi"])
def test_a_framework_calls_and_streams(ports: Ports, which: str) -> None:
    port = getattr(ports, which)
    for number in range(8):  # processes forked behind a first call among them
        assert _get(port, f"/add/{number}") == {"x": number + 1, "app": "shop"}
        assert _get(port, "/tell/3") == b"w0w1w2"


def test_plain_tasks_of_every_pool_call_and_read(ports: Ports) -> None:
    own = (
        ports.folder.celery(
            "-A", "flask_app", "worker", "-l", "info", "-P", pool, "-c", "1", "-Q", pool, "-n", f"{pool}@%h",
            "--without-gossip", "--without-mingle", **ports.env,
        )
        for pool in ("prefork", "gevent", "threads", "solo")
    )  # fmt: skip
    with together(*own):
        poems = ports.folder.python("ask.py", **ports.env)
    assert poems == dict.fromkeys(("prefork", "gevent", "threads", "solo"), "w0w13")
