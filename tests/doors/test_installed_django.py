"""A Django project: its database as result backend, Celery's fixup, transactions, a Channels consumer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.django_service import SERVICE
from tests.support.processes import together
from tests.support.server import RedisServer
from tests.support.stranger import Folder, Program

pytest.importorskip("django_celery_results")
pytest.importorskip("channels")
pytestmark = [pytest.mark.slow, pytest.mark.doors]

SETTINGS = """
import os
from pathlib import Path
SECRET_KEY = "x"
USE_TZ = True
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django_celery_results", "llm"]
DATABASES = {"default": {
    "ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).parent / "db.sqlite3",
    "OPTIONS": {"timeout": 60, "transaction_mode": "IMMEDIATE"},
}}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
CELERY_BROKER_URL = os.environ["BROKER"]
CELERY_RESULT_BACKEND = "django-db"
CELERY_TASK_TRACK_STARTED = True
CELERY_RESULT_EXTENDED = True
"""
APP = """
import os
from celery import Celery
import dynamo_tasks
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
app = Celery("site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
dynamo_tasks.install(app, "llm.service:W")
periodic = []

@app.on_after_configure.connect
def plan(sender, **kwargs):
    sender.add_periodic_task(3600, sender.signature("llm.tasks.count"), name="planned")
"""
TASKS = """
from celery import shared_task

@shared_task
def count(parts=None):
    from django.contrib.auth.models import User
    return [User.objects.count(), parts]
"""
CLIENT = """
import asyncio, json, time
from celery_app import app
import django
django.setup()
from channels.generic.websocket import AsyncWebsocketConsumer
from asgiref.testing import ApplicationCommunicator
from celery import chord, chain
from django.db import transaction
from django_celery_results.models import TaskResult
from llm.service import W
from llm.tasks import count

class Chat(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        result = await asyncio.to_thread(W.tell.delay, int(text_data))
        async for word in result:
            await self.send(text_data=word)

async def chat():
    caller = ApplicationCommunicator(Chat.as_asgi(), {"type": "websocket", "path": "/chat"})
    await caller.send_input({"type": "websocket.connect"})
    await caller.receive_output(30)
    await caller.send_input({"type": "websocket.receive", "text": "2"})
    words = [(await caller.receive_output(30))["text"] for _ in range(2)]
    await caller.send_input({"type": "websocket.disconnect", "code": 1000})
    return words

users = W.users.delay({"add": 1})
told = {"users": users.get(timeout=60), "blocking": W.blocking.delay({"add": 2}).get(timeout=60)}
told["told"] = list(W.tell.delay(3))
told["many"] = sum(one.get(timeout=60) for one in [W.users.delay({"add": 1}) for _ in range(40)])
told["flaky"] = W.flaky.delay({}).get(timeout=60)
told["fails"] = repr(W.fails.delay({}).get(timeout=60, propagate=False))
told["chain"] = chain(W.tell.s(1), count.s()).delay().get(timeout=60)
told["chord"] = chord([W.users.s({"add": number}) for number in range(2)], count.s()).delay().get(timeout=60)
told["row"] = list(TaskResult.objects.filter(task_id=users.id).values_list("status", "task_name"))
with transaction.atomic():
    W.users.delay_on_commit({"add": 100})
    app.tasks["site.W.users"].apply_async_on_commit(({"add": 200},))
    told["before"] = TaskResult.objects.filter(result__in=["100", "200"]).count()
for _ in range(300):
    told["behind"] = TaskResult.objects.filter(result__in=["100", "200"]).count()
    if told["behind"] == 2:
        break
    time.sleep(0.1)
told["chat"] = asyncio.run(chat())
told["planned"] = list(app.conf.beat_schedule)
print(json.dumps(told))
"""


class Site:
    def __init__(self, folder: Folder, broker: str):
        self.folder = folder
        self.env = {"BROKER": broker, "DJANGO_SETTINGS_MODULE": "settings"}
        (folder.path / "llm").mkdir()
        for name, text in {"__init__": "", "tasks": TASKS, "service": SERVICE}.items():
            (folder.path / "llm" / f"{name}.py").write_text(text)
        migrate = folder.start("django-admin", "migrate", "-v", "0", wait=False, PYTHONPATH=".", **self.env)
        with migrate:
            assert migrate.popen.wait(60) == 0, migrate.output

    def worker(self, *arguments: str) -> Program:
        name = "svc" if "--service" in arguments else "own"
        argv = ("-A", "celery_app", "worker", "-l", "info", "-n", f"{name}@%h", *arguments)
        return self.folder.celery(*argv, **self.env)


@pytest.fixture(scope="module")
def told(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = Folder(tmp_path_factory.mktemp("site"), settings=SETTINGS, celery_app=APP, client=CLIENT)
    site = Site(folder, redis_server.url.removesuffix("0") + "11")
    with together(site.worker("--service", "llm.service:W"), site.worker("-c", "1")) as (ours, theirs):
        found = folder.python("client.py", timeout=110, **site.env)
        yield {**found, "ours": ours.output, "theirs": theirs.output}


def test_endpoints_end_and_their_results_are_rows(told: dict[str, Any]) -> None:
    assert (told["users"], told["blocking"], told["many"]) == (1, 2, 40)
    assert told["told"] == ["w0", "w1", "w2"]
    assert told["row"] == [["SUCCESS", "site.W.users"]]
    assert told["flaky"] == 2
    assert "no" in told["fails"]


def test_canvas_goes_through_both_kinds_of_workers(told: dict[str, Any]) -> None:
    assert told["chain"] == [0, ["w0"]]
    assert told["chord"] == [0, [0, 1]]


def test_nothing_of_django_runs_on_the_loop(told: dict[str, Any]) -> None:
    assert "SynchronousOnlyOperation" not in told["ours"]
    assert told["ours"].count("Traceback") == told["ours"].count("ValueError: no\n")


def test_django_calls_behind_a_transaction_and_from_a_consumer(told: dict[str, Any]) -> None:
    assert (told["before"], told["behind"]) == (0, 2)
    assert told["chat"] == ["w0", "w1"]
    assert told["planned"] == ["planned"]
