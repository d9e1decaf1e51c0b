"""Every option that the installed Celery knows has its place in docs/celery.md; what is refused there is refused."""

from __future__ import annotations

import fnmatch
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery
from celery.app.amqp import AMQP
from celery.app.defaults import NAMESPACES, flatten
from celery.bin.worker import worker

from dynamo_tasks.queue.app import create_app
from tests.support.processes import ROOT, environment
from tests.support.server import RedisServer

CELERY = str(Path(sys.executable).parent / "celery")
OURS = {"--service", "--config", "--set", "--operators"}
_COMMON = {"self", "options", "publisher", "now", "timezone", "create_sent_event", "callbacks", "errbacks"}


pytestmark = pytest.mark.filterwarnings(
    "ignore:The parameter"
)  # Celery adds an application's options each time


def table(title: str) -> dict[str, str]:
    """Option → what becomes of it."""
    text = (
        (ROOT / "docs/celery.md").read_text().split(f"### {title}\n")[1].split("\n## ")[0].split("\n### ")[0]
    )
    rows = [row.split("|")[1:3] for row in text.splitlines() if row.startswith("| `")]
    return {name: status.strip() for names, status in rows for name in re.findall(r"`([^`]+)`", names)}


def worker_options() -> set[str]:
    return {next(o for o in one.opts if o.startswith("--")) for one in list(worker.params)} - OURS


def call_options() -> set[str]:
    found = {*inspect.signature(Celery.send_task).parameters, *inspect.signature(AMQP.as_task_v2).parameters}
    return (found - _COMMON) | {"publisher"}


@pytest.mark.parametrize(
    ("title", "known"),
    [
        ("Options of `worker`", {"--detach", *worker_options()}),
        ("Options of a call", call_options()),
        ("Settings", {name for name, _ in flatten(NAMESPACES)}),
    ],
    ids=["worker", "call", "settings"],
)
def test_the_table_has_every_option_of_the_installed_celery(title: str, known: set[str]) -> None:
    told = table(title)
    assert set(told.values()) <= {"works", "refused", "meaningless"}
    missing = {name for name in known if not any(fnmatch.fnmatchcase(name, one) for one in told)}
    assert missing == set(), "options that nobody has placed yet"


def test_the_table_has_no_option_that_celery_does_not_know() -> None:
    settings = [name for name, _ in flatten(NAMESPACES)]
    assert [one for one in table("Settings") if not fnmatch.filter(settings, one)] == []
    assert set(table("Options of `worker`")) <= worker_options()


REFUSED = {
    "--pool": ["prefork", "threads", "solo", "processes"],
    "--max-tasks-per-child": ["10"],
    "--max-memory-per-child": ["100000"],
    "--pool-start-method": ["spawn"],
}
SETTINGS = {"worker_max_tasks_per_child": 5, "worker_max_memory_per_child": 5000}


def test_what_the_table_calls_refused_is_tried() -> None:
    assert {name for name, what in table("Options of `worker`").items() if what == "refused"} == set(REFUSED)


def _one_line(told: str, name: str) -> None:
    lines = [line for line in told.splitlines() if line.startswith("dynamo-tasks: ")]
    assert len(lines) == 1, told
    assert name in lines[0]
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("name", "value"), [(name, one) for name, values in REFUSED.items() for one in values]
)
def test_a_refused_option_is_one_line(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    app = create_app("refusing", server_url=redis_server.url, make_host=lambda *_, **__: None)
    with pytest.raises(SystemExit, match="2"):
        app.worker_main(["worker", name, value])
    _one_line(capsys.readouterr().err, name)


@pytest.mark.parametrize(("name", "value"), SETTINGS.items())
def test_a_refused_setting_is_one_line(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str], name: str, value: int
) -> None:
    app = create_app(
        "refusing", server_url=redis_server.url, make_host=lambda *_, **__: None, **{name: value}
    )
    with pytest.raises(SystemExit, match="2"):
        app.worker_main(["worker"])
    _one_line(capsys.readouterr().err, name)


def test_the_console_script_ends_with_exit_code_2(redis_server: RedisServer) -> None:
    done = subprocess.run(
        [CELERY, "-A", "dynamo_tasks", "worker", "-P", "prefork"], env=environment(redis_server.url), cwd=ROOT,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    _one_line(done.stderr, "--pool")
