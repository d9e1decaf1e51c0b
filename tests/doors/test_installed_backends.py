"""Applications with their results in places of their own, beside prefork workers of theirs; another scheduler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import together, until
from tests.support.server import RedisServer
from tests.support.stranger import Folder, service_of

pytest.importorskip("sqlalchemy")
pytest.importorskip("redbeat")
pytestmark = [pytest.mark.slow, pytest.mark.doors]

SHOP = """
import json, os, threading
from celery import Celery, signals
import dynamo_tasks

app = Celery("shop", **json.loads(os.environ["SHOP"]))
dynamo_tasks.install(app, "svc:W")

@app.task
def made(number):
    return {"x": number}

@app.task
def summed(parts):
    return sum(part["x"] for part in parts)
"""
CLIENT = """
import json
from celery import chain, chord
from shop import app, made, summed
from svc import W

def got(result):
    return result.get(timeout=60)

told = {
    "got": got(W.add1.delay({"x": 1})), "told": list(W.tell.delay(2)), "list": got(W.tell.delay(2)),
    "fails": repr(W.fails.delay({}).get(timeout=60, propagate=False)),
    "chain": got(chain(W.add1.s({"x": 1}), W.add1.s()).delay()),
}
# Celery itself has no chords without results or over rpc://, cannot write those of plain tasks as YAML, and keeps no
# result of a plain task that ignores it.
plain = app.conf.result_serializer != "yaml" and not app.conf.task_ignore_result
if plain and app.conf.result_backend not in (None, "rpc://"):
    told["theirs"] = got(chord([W.add1.s({"x": 1}), made.s(4)], summed.s()).delay())
    told["ours"] = got(chord([W.add1.s({"x": 1}), made.s(4)], W.total.s()).delay())
print(json.dumps(told))
"""


def serialized(name: str) -> dict[str, Any]:
    return {"task_serializer": name, "result_serializer": name, "accept_content": [name]}


@pytest.mark.parametrize(
    ("number", "settings"),
    [
        (0, {"backend": "redis"}),
        (1, {"backend": "redis other"}),
        (2, {"backend": "redis", **serialized("pickle")}),
        (3, {"backend": "redis", **serialized("msgpack")}),
        (4, {"backend": "redis", **serialized("yaml")}),
        (5, {"backend": "file://{here}/results", "task_track_started": True}),
        (6, {"backend": "db+sqlite:///{here}/results.db", "task_track_started": True}),
        (7, {"backend": "rpc://"}),
        (8, {}),
        (9, {"backend": "redis", "task_ignore_result": True, "task_compression": "gzip"}),
    ],
    ids=str,
)
def test_results_are_kept_where_the_application_keeps_them(
    redis_server: RedisServer, tmp_path: Path, number: int, settings: dict[str, Any]
) -> None:
    folder = Folder(tmp_path, svc=service_of("kept"), shop=SHOP, client=CLIENT)
    (tmp_path / "results").mkdir()
    place = redis_server.url.removesuffix("0")
    options = {"global_keyprefix": f"kept{number}:"}
    backend = settings.get("backend", "").format(here=tmp_path).replace("redis other", f"{place}14")
    given = {
        **settings, "broker": f"{place}13", "broker_transport_options": options,
        "result_backend_transport_options": options, "backend": backend.replace("redis", f"{place}13")
        if backend == "redis" else backend or None,
    }  # fmt: skip
    env = {"SHOP": json.dumps(given)}
    ours = folder.celery("-A", "shop", "worker", "--service", "svc:W", "-l", "info", "-n", "svc@%h", **env)
    theirs = folder.celery("-A", "shop", "worker", "-c", "1", "-l", "info", "-n", "own@%h", **env)
    with together(ours, theirs):
        told = folder.python("client.py", **env)
        assert "ContentDisallowed" not in ours.output + theirs.output
    assert (told["got"], told["told"], told["list"]) == ({"x": 2}, ["w0", "w1"], ["w0", "w1"])
    assert told["chain"] == {"x": 3}
    assert "no" in told["fails"]
    assert told.get("theirs", 6) == told.get("ours", 6) == 6


def test_redbeat_schedules_endpoints(redis_server: RedisServer, tmp_path: Path) -> None:
    place = redis_server.url.removesuffix("0") + "14"
    planned = """
app.conf.beat_schedule = {"often": {"task": "kept.W.add1", "schedule": 0.5, "args": [{"x": 1}]}}
app.conf.redbeat_redis_url = json.loads(os.environ["SHOP"])["broker"]
"""
    folder = Folder(tmp_path, svc=service_of("kept"), shop=SHOP + planned)
    env = {"SHOP": json.dumps({"broker": place, "backend": place})}
    beat = ("-A", "shop", "beat", "-S", "redbeat.RedBeatScheduler", "-l", "info", "--max-interval", "1")
    ours = folder.celery("-A", "shop", "worker", "--service", "svc:W", "-l", "info", **env)
    with together(ours, folder.celery(*beat, ready="beat: Starting", **env)):
        until(lambda: ours.output.count("kept.W.add1[") > 3, 40, lambda: ours.output)
