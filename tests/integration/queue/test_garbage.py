"""Anybody who reaches the server may push anything onto a queue: it is dropped or refused, and never unpickled."""

from __future__ import annotations

import base64
import json
import pickle
import random
import uuid
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.exceptions import ContentDisallowed, DecodeError

from tests.support.bomb import Bomb
from tests.support.processes import Worker, until
from tests.support.queue import Lab

pytestmark = pytest.mark.slow


@pytest.fixture
def bomb(tmp_path: Path) -> Any:
    yield pickle.dumps(((Bomb(tmp_path / "exploded"),), {}, {}))
    assert not (tmp_path / "exploded").exists()


def message(lab: Lab, task: str, **changes: Any) -> dict[str, Any]:
    """A message as Celery sends it, with some parts changed; ``headers__x`` is the header x."""
    request_id, queue = str(uuid.uuid4()), lab.queue
    made: dict[str, Any] = {
        "body": json.dumps([[1], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py", "task": task, "id": request_id, "root_id": request_id, "parent_id": None, "group": None,
            "retries": 0, "timelimit": [None, None], "eta": None, "expires": None, "argsrepr": "", "kwargsrepr": "",
            "origin": "x", "ignore_result": False,
        },
        "properties": {
            "correlation_id": request_id, "reply_to": "", "delivery_mode": 2, "priority": 0, "body_encoding": None,
            "delivery_info": {"exchange": "", "routing_key": queue}, "delivery_tag": request_id,
        },
    }  # fmt: skip
    for path, value in changes.items():
        where = made
        *parents, last = path.split("__")
        for name in parents:
            where = where[name]
        where[last.replace("_", "-") if last.startswith("content") else last] = value
    return made


def push(lab: Lab, *messages: dict[str, Any], queue: str = "") -> None:
    for one in messages:
        lab.redis.lpush(queue or lab.queue, json.dumps(one))


@pytest.mark.parametrize(
    "kind", ["application/x-python-serialize", "pickle", "application/x-yaml", "application/data"]
)
@pytest.mark.parametrize("header", [{}, {"headers__dynamo": {"v": 1}}], ids=["plain", "ours"])
def test_a_pickled_message_is_refused(
    lab: Lab, worker: Worker, bomb: bytes, kind: str, header: dict[str, Any]
) -> None:
    body = {
        "body": base64.b64encode(bomb).decode(), "properties__body_encoding": "base64", "content_type": kind,
        "content_encoding": "binary", **header,
    }  # fmt: skip
    for task in (f"{lab.namespace}.Lab.echo", f"{lab.namespace}.plain_add"):
        push(lab, message(lab, task, **body))
        push(lab, message(lab, task, **body), queue="dynamo-tasks")
    assert lab.call("echo", 1).get(timeout=30) == 1
    assert worker.alive, worker.output[-3000:]


def test_a_pickled_result_is_refused(lab: Lab, worker: Worker, bomb: bytes) -> None:
    result = lab.call("echo", 1)
    assert result.get(timeout=30) == 1
    key = f"celery-task-meta-{result.id}"
    with redis.Redis(port=lab.server.port) as client:
        for data in (bomb, base64.b64encode(bomb), b'{"status": "SUCCESS", "result": ' + bomb + b"}"):
            client.set(key, data)
            with pytest.raises((ContentDisallowed, DecodeError, ValueError)):
                lab.app.AsyncResult(result.id).get(timeout=30)


WORDS = [
    None,
    0,
    -1,
    2**70,
    1.5,
    "",
    "x",
    "\x00",
    [],
    {},
    [[]],
    {"a": {}},
    True,
    "9" * 400,
    ["x"] * 3,
    "2026-13-45",
]
PATHS = [
    "body", "content_type", "content_encoding", "headers", "properties", "properties__body_encoding",
    "properties__delivery_info", "properties__delivery_tag", "properties__priority", "properties__correlation_id",
    *[f"headers__{name}" for name in (
        "task", "id", "root_id", "parent_id", "group", "retries", "timelimit", "eta", "expires", "dynamo", "lang",
        "ignore_result", "argsrepr", "origin", "stamped_headers", "replaced_task_nesting", "group_index",
    )],
]  # fmt: skip


def test_messages_with_anything_in_any_place(lab: Lab, worker: Worker) -> None:
    """A seeded walk over all places and values; after each handful the worker still serves."""
    dice = random.Random(7)
    cases = [(path, word) for path in PATHS for word in WORDS]
    dice.shuffle(cases)
    for start in range(0, len(cases), 50):
        for path, word in cases[start : start + 50]:
            push(lab, message(lab, f"{lab.namespace}.Lab.echo", **{path: word}))
        assert lab.call("echo", 2).get(timeout=20) == 2, (cases[start : start + 50], worker.output[-3000:])
        assert worker.alive, worker.output[-3000:]
    until(lambda: lab.unacked() == 0, what="nothing is left unacknowledged")
