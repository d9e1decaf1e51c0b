"""Django's beat scheduler: what its admin plans, endpoints among it, is run by workers of ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.django_service import SERVICE
from tests.support.processes import until
from tests.support.server import RedisServer
from tests.support.stranger import Folder

pytest.importorskip("django_celery_beat")
pytestmark = [pytest.mark.slow, pytest.mark.doors]

SETTINGS = """
import os
from pathlib import Path
SECRET_KEY = "x"
USE_TZ = True
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django_celery_beat"]
DATABASES = {"default": {
    "ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).parent / "db.sqlite3",
    "OPTIONS": {"timeout": 60, "transaction_mode": "IMMEDIATE"},
}}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
CELERY_BROKER_URL = CELERY_RESULT_BACKEND = os.environ["BROKER"]
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
"""
APP = """
import os
from celery import Celery
import dynamo_tasks
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
app = Celery("site")
app.config_from_object("django.conf:settings", namespace="CELERY")
dynamo_tasks.install(app, "service:W")
"""
PLAN = """
import json, os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
import django
django.setup()
from django_celery_beat.models import IntervalSchedule, PeriodicTask
often, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.SECONDS)
PeriodicTask.objects.create(name="often", task="site.W.users", interval=often, args='[{"add": 1}]')
PeriodicTask.objects.create(name="named", task="site.W.blocking", interval=often, kwargs='{"request": {"add": 2}}')
print(json.dumps(PeriodicTask.objects.count()))
"""


@pytest.mark.parametrize("application", ["celery_app", "dynamo_tasks"])
def test_what_the_database_plans_is_run(own_server: RedisServer, tmp_path: Path, application: str) -> None:
    folder = Folder(tmp_path, settings=SETTINGS, celery_app=APP, service=SERVICE, plan=PLAN)
    env = {"BROKER": own_server.url, "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": str(tmp_path)}
    if application == "dynamo_tasks":
        env |= {"DYNAMO_REDIS_URL": own_server.url, "DYNAMO_GRAPH": "service:W"}
    with folder.start("django-admin", "migrate", ready="Applying", **env) as migrated:
        until(lambda: not migrated.alive, 60, lambda: migrated.output)
    planned = folder.python("plan.py", **env)
    assert planned >= 2
    scheduler = ("-S", "django", "--max-interval", "1")
    worker = folder.celery("-A", application, "worker", "--service", "service:W", "-l", "info", **env)
    beat = folder.celery("-A", application, "beat", *scheduler, "-l", "info", ready="beat: Starting", **env)
    with worker, beat:
        for name in ("site.W.users", "site.W.blocking"):
            until(
                lambda name=name: worker.output.count(f"Task {name}[") >= 4,  # received and succeeded, twice
                60,
                lambda: json.dumps([worker.output[-3000:], beat.output[-3000:]]),
            )
        assert "Traceback" not in worker.output + beat.output
