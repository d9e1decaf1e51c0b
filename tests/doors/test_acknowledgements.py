"""When a plain task's message counts as done: the options of its decorator, and a worker that is killed meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.support.processes import until
from tests.support.server import RedisServer
from tests.support.stranger import Folder

pytestmark = pytest.mark.slow

TASKS = """
import os, time
import redis
from dynamo_tasks import app

client = redis.Redis.from_url(os.environ["DYNAMO_REDIS_URL"])

def run(name):
    if client.incr("runs " + name) == 1:
        time.sleep(600)

def fail(name):
    client.incr("runs " + name)
    raise ValueError("no")

OPTIONS = {
    "default": {}, "late": {"acks_late": True}, "early": {"acks_late": False},
    "rejected": {"acks_late": True, "reject_on_worker_lost": True},
    "kept": {"acks_late": True, "reject_on_worker_lost": False},
}
ENDS = {
    "failed": {}, "refused": {"acks_on_failure_or_timeout": False}, "early failed": {"acks_late": False},
}
for name, options in OPTIONS.items():
    app.task(name=name, **options)(run)
for name, options in ENDS.items():
    app.task(name=name, **options)(fail)
"""
SEND = """
import json, sys
from tasks import app
for name in sys.argv[1:]:
    app.tasks[name].delay(name)
print(json.dumps("sent"))
"""
KILLED = {"default": 2, "late": 2, "early": 1, "rejected": 2, "kept": 2}
"""How often each runs where the worker is killed in its midst: what a dead worker held is given back."""
FAILED = ("failed", "refused", "early failed")
"""They have run, whatever came of it: once."""


def test_a_message_is_done_when_its_options_say_so(redis_server: RedisServer, tmp_path: Path) -> None:
    folder = Folder(tmp_path, tasks=TASKS, send=SEND)
    env = {"DYNAMO_REDIS_URL": redis_server.url.removesuffix("0") + "11"}
    with redis.Redis.from_url(env["DYNAMO_REDIS_URL"], decode_responses=True) as client:

        def runs(name: str) -> int:
            return int(client.get(f"runs {name}") or 0)

        def held() -> int:
            return sum(client.hlen(key) for key in client.scan_iter("dt:@unacked:*"))

        worker = ("-A", "tasks", "worker", "-c", "8", "-l", "warning")
        with folder.celery(*worker, ready="[queues]", **env) as first:
            folder.python("send.py", *KILLED, *FAILED, **env)
            until(lambda: all(runs(name) == 1 for name in (*KILLED, *FAILED)), 30, lambda: first.output)
            waiting = sum(count - 1 for count in KILLED.values())
            until(lambda: held() == waiting, 30, lambda: f"{held()} messages that are not done, of {waiting}")
            first.kill()
        with folder.celery(*worker, ready="[queues]", **env) as second:
            until(
                lambda: all(runs(name) == count for name, count in KILLED.items()), 60, lambda: second.output
            )
            until(lambda: held() == 0, 30, lambda: f"{held()} messages that are not done")
            assert [runs(name) for name in FAILED] == [1, 1, 1]
            assert runs("early") == 1
