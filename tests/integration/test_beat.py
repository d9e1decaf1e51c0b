"""``celery -A dynamo_tasks beat``: starts, and puts what is due into the queue of its endpoint."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from beat.schedule import install
from tests.support.processes import START, Process, environment, until
from tests.support.server import RedisServer

PROJECT = """
from beat.schedule import SCHEDULE
SCHEDULE["often"] = {
    "task": "beating.Worker.generate", "schedule": 0.2, "args": [{"prompt": "hi"}],
    "options": {"queue": "beating|Worker", "expires": 3600},
}
from dynamo_tasks import app
"""


def beat(url: str, folder: Path, app: str) -> Process:
    argv = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        app,
        "beat",
        "-s",
        str(folder / "schedule"),
        "--loglevel",
        "info",
    ]
    path = os.pathsep.join([str(folder), environment(url)["PYTHONPATH"]])
    return Process(argv, environment(url, PYTHONPATH=path), name="beat", cwd=folder)


def test_the_default_schedule_starts_and_stops(redis_server: RedisServer, tmp_path: Path) -> None:
    with beat(redis_server.url, tmp_path, "dynamo_tasks") as process:
        # Its store is there before its signal handler, and that before this line: a signal in between would meet
        # Celery in the middle of an import, or of opening the store.
        until(lambda: "beat: Starting" in process.output or not process.alive, 20.0, "beat runs")
        assert process.terminate() == 0, process.output
        assert "Traceback" not in process.output


def test_an_entry_is_sent_to_its_endpoint(redis_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text(PROJECT)
    with beat(redis_server.url, tmp_path, "project") as process:
        until(lambda: redis_server.command("LLEN", "beating|Worker") not in (b":0\r\n",), 20.0, "a message")
        assert process.terminate() == 0, process.output


ENDS = """
import os, signal
from celery.signals import before_task_publish

class Ends:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(10))

@before_task_publish.connect
def ends(**_):
    Ends()
"""


def test_a_signal_within_a_destructor_ends_it(redis_server: RedisServer, tmp_path: Path) -> None:
    """Python swallows what is raised there."""
    (tmp_path / "project.py").write_text(PROJECT.replace("beating", "ending") + ENDS)
    with beat(redis_server.url, tmp_path, "project") as process:
        until(lambda: not process.alive, START, lambda: process.output)
        assert "closed shelf" not in process.output
        assert process.terminate() == 0, process.output


def test_entries_of_an_existing_application_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules["beat.schedule"].SCHEDULE, "ours", {"task": "d.E.f", "schedule": 2.0})
    app = SimpleNamespace(conf=SimpleNamespace(beat_schedule={"mine": {"task": "a.B.c", "schedule": 1.0}}))
    install(app)
    assert list(app.conf.beat_schedule) == ["mine", "ours"]


@pytest.mark.slow
def test_the_console_script_reads_the_schedule_of_its_folder(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """As typed: the script's own folder comes first in its path, and not the working directory."""
    (tmp_path / "beat").mkdir()
    entry = {"task": "typed.Worker.generate", "schedule": 0.2, "args": [{"prompt": "hi"}]}
    (tmp_path / "beat" / "schedule.py").write_text(
        f"SCHEDULE = {{'often': {entry | {'options': {'queue': 'typed|Worker', 'expires': 3600}}!r}}}"
    )
    env = environment(redis_server.url)
    del env["PYTHONPATH"]
    argv = [
        str(Path(sys.executable).parent / "celery"),
        "-A",
        "dynamo_tasks",
        "beat",
        "-s",
        str(tmp_path / "schedule"),
    ]
    with Process(argv, env, name="beat", cwd=tmp_path) as process:
        until(lambda: redis_server.command("LLEN", "typed|Worker") not in (b":0\r\n",), 60.0, "a message")
        assert process.terminate() == 0, process.output
