"""Who may write a pipeline's plan into Redis names what he likes; a worker runs what its operator allowed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import redis

from dynamo_tasks.errors import DynamoError, JobFailedError
from dynamo_tasks.pipelines import JobState, RemoteEnvironment, RemoteJob
from dynamo_tasks.pipelines.plans import signed
from dynamo_tasks.pipelines.plans.plan import Plan
from dynamo_tasks.pipelines.plans.portable import Reference
from tests.support import processes
from tests.support.acl import server_with_users, url_of
from tests.support.plans import launched
from tests.support.processes import Worker
from tests.support.serve import COMMAND
from tests.support.server import RedisServer

KEY = "the key of both sides, 32 or more"
STEPS = """
import os
from os import system
from pathlib import Path

def plus(record, more=1):
    return record + more

def even(record):
    return record % 2 == 0

class Doubler:
    def process(self, value):
        return 2 * value
"""
MODULES = {"shop_steps": STEPS, "shop_other": STEPS}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with server_with_users(tmp_path_factory.mktemp("acl")) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The application's own directory: two modules, importable here as there."""
    folder = tmp_path_factory.mktemp("shop")
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope="module")
def worker(server: RedisServer, folder: Path) -> Iterator[Worker]:
    operators = ("--operators", "shop_steps")
    url = url_of(server, "worker")
    env = {"PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{folder}", signed.KEY: KEY}
    with Worker(url, *operators, service="", name="allowed", env=env) as worker:
        yield worker


def environment(server: RedisServer, user: str = "worker") -> RemoteEnvironment:
    return RemoteEnvironment("x", {"redis_url": url_of(server, user)})


def forged(env: RemoteEnvironment, kind: str, reference: Reference) -> RemoteJob:
    """A job with this reference in the place of an operator's or a service's."""
    import shop_steps  # type: ignore[import-not-found]

    env.from_batch(["x"]).map(str).sink(print)
    if kind == "service":
        env.register_service("doubler", shop_steps.Doubler)

    def forge(plan: Plan) -> Plan:
        services = [msgspec.structs.replace(one, function=reference) for one in plan.services]
        operators = [
            msgspec.structs.replace(one, function=reference, kind=kind if one.kind == "map" else one.kind)
            if kind != "service" and one.kind in ("map", kind)
            else one
            for one in plan.operators
        ]
        return msgspec.structs.replace(plan, services=services, operators=operators)

    return launched(env, forge)


@pytest.mark.parametrize("user", ["worker", "frontend"])
def test_no_user_of_the_server_has_a_command_run(
    server: RedisServer, worker: Worker, tmp_path: Path, user: str
) -> None:
    """As a script would: no forged plan, ``os.system`` as a function like any other."""
    with environment(server, user) as env:
        env.from_batch([f"touch {tmp_path}/run"]).map(os.system).sink(print)
        with pytest.raises(DynamoError, match=r"may not run posix:system|NOPERM|no permissions"):
            env.submit().wait(30)
    assert not (tmp_path / "run").exists()


KINDS = ["batch", "source", "map", "filter", "flatmap", "keyby", "sink", "collect", "service"]
PATHS: list[tuple[str, Callable[[str], Reference]]] = [
    ("os:system", lambda run: Reference("os:system", [run])),
    ("posix:system", lambda run: Reference("posix:system", [run])),
    ("subprocess:Popen", lambda run: Reference("subprocess:Popen", [["touch", run]])),
    ("subprocess:Popen, an instance", lambda run: Reference("subprocess:Popen", state={"args": ["touch", run]})),
    ("shop_steps:os.system", lambda run: Reference("shop_steps:os.system", [run])),
    ("shop_steps:system", lambda run: Reference("shop_steps:system", [run])),
    ("shop_steps:Path", lambda run: Reference("shop_steps:Path.touch", [run])),
    ("shop_steps:plus.__globals__", lambda run: Reference("shop_steps:plus.__globals__", [run])),
    ("shop_other:plus", lambda run: Reference("shop_other:plus", [run])),
    ("builtins:exec", lambda run: Reference("builtins:exec", [f"open({run!r}, 'w')"])),
    ("dynamo_tasks", lambda run: Reference("dynamo_tasks.pipelines.celery.worker:Operators")),
    ("nothing", lambda run: Reference("")),
    ("code", lambda run: Reference(pickled=b"cos\nsystem\n(S'touch x'\ntR.", signature=b"0" * 32)),
]  # fmt: skip


@pytest.mark.parametrize("path", [name for name, _ in PATHS])
def test_no_name_of_a_plan_escapes_what_is_allowed(
    server: RedisServer, worker: Worker, tmp_path: Path, path: str
) -> None:
    make, canary = dict(PATHS)[path], tmp_path / "run"
    run = f"touch {canary}" if path.endswith("system") else str(canary)
    with environment(server) as env:
        for kind in KINDS if path == "os:system" else ["map", "service"]:
            job = forged(env, kind, make(run))
            with pytest.raises(
                JobFailedError, match=r"may not run|is not defined|cannot be imported|is not signed"
            ):
                job.wait(30)
    assert not canary.exists()
    assert worker.alive


def test_what_is_allowed_runs(server: RedisServer, worker: Worker, folder: Path) -> None:
    import shop_steps

    with environment(server) as env:
        env.register_service("doubler", shop_steps.Doubler)
        env.from_batch([1, 2]).map(shop_steps.plus, 2).collect()
        job = env.submit()
        assert list(job.results()) == [3, 4]
        assert job.wait(30).state is JobState.SUCCEEDED


@pytest.mark.parametrize("user", ["worker", "frontend"])
def test_pipelines_run_under_the_shipped_users(
    server: RedisServer, worker: Worker, folder: Path, user: str
) -> None:
    """With all that they need, and the server refused nothing to anybody; and who only looks sees the job."""
    import shop_steps

    with environment(server, user) as env, redis.Redis(port=server.port) as admin:
        admin.acl_log_reset()
        env.register_service("doubler", shop_steps.Doubler)
        stream = env.from_batch(list(range(20))).map(shop_steps.plus, 2)
        stream.filter(shop_steps.even).keyby(shop_steps.even).collect()
        job = env.submit()
        assert sorted(job.results()) == list(range(2, 22, 2))
        assert job.wait(30).state is JobState.SUCCEEDED
        shown = subprocess.run(
            [*COMMAND, "status", "--json"], env=processes.environment(url_of(server, "monitor")), capture_output=True,
            text=True, timeout=60, check=True,
        ).stdout  # fmt: skip
        assert job.id in shown
        assert admin.acl_log() == []


def test_a_signed_plan_runs_whatever_it_names(
    server: RedisServer, worker: Worker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shop_other  # type: ignore[import-not-found]

    monkeypatch.setenv(signed.KEY, KEY)
    with environment(server) as env:
        env.from_batch([1, 2]).map(shop_other.plus, 2).collect()
        job = env.submit()
        assert list(job.results()) == [3, 4]
        assert job.wait(30).state is JobState.SUCCEEDED


@pytest.mark.parametrize("change", ["a byte", "another job", "another key"])
def test_a_plan_that_was_changed_is_not_signed(
    server: RedisServer, worker: Worker, folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    import shop_other

    monkeypatch.setenv(signed.KEY, KEY if change != "another key" else KEY[::-1])
    with environment(server) as env:
        env.from_batch([1, 2]).map(shop_other.plus, 2).collect()

        def forge(plan: Plan) -> Plan:
            sealed = signed.seal(plan.encode())
            if change == "a byte":
                sealed = sealed.replace(b'"args":[2]', b'"args":[3]')
            if change == "another job":
                plan = msgspec.structs.replace(plan, id=f"{plan.id[:-1]}z")
            monkeypatch.setattr(signed, "seal", lambda data: sealed)
            return plan

        with pytest.raises(JobFailedError, match=r"may not run shop_other:plus|has the plan of job"):
            launched(env, forge).wait(30)
