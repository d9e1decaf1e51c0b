"""Actors that are killed in mid-job, and what else holds on Ray alone."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks.errors import ConfigError, EndpointError, JobFailedError, WorkerLostError
from dynamo_tasks.pipelines import ActorWrapper, JobState, RemoteEnvironment, connect
from dynamo_tasks.pipelines.plans import signed
from dynamo_tasks.pipelines.ray.cluster import actor_names
from tests.support import pipeline_parts as parts
from tests.support.processes import Worker, until
from tests.support.ray import ray_cluster_of
from tests.support.server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.ray]

RECORDS = 1500
KEY = "a key of thirty-two characters or more"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Its processes have the signing key, and this one has not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(signed.KEY, KEY)
        with ray_cluster_of(2):
            patch.undo()
            yield


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert actor_names() == []


def plant(**config: Any) -> RemoteEnvironment:
    return RemoteEnvironment("plant", config, backend="ray")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def pids(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir()]


def records_of(job: Any, name: str) -> int:
    return next(one.records_in for one in job.status().operators if one.name == name)


def test_a_killed_operator_loses_and_repeats_no_record(tmp_path: Path) -> None:
    env = plant(queue_size=128)
    env.from_batch(range(RECORDS)).map(parts.Marked, str(tmp_path), parallelism=2, name="marked").collect()
    job = env.submit()
    until(lambda: records_of(job, "marked") > 100, 60)
    before = pids(tmp_path)
    kill(before[0])
    assert sorted(job.results()) == [n + 1 for n in range(RECORDS)]
    assert job.wait(60).state is JobState.SUCCEEDED
    assert len(pids(tmp_path)) == len(before) + 1  # it was in mid-job, and came back
    assert records_of(job, "marked") == RECORDS


def test_a_killed_sink_writes_each_record_once_under_its_id(tmp_path: Path) -> None:
    env, path = plant(queue_size=128), str(tmp_path / "records.sqlite")
    (tmp_path / "pids").mkdir()
    env.register_service("process", parts.Process)
    env.from_batch(range(RECORDS)).sink(parts.MarkedTable, path, str(tmp_path / "pids"), name="table")
    job = env.submit()
    until(lambda: records_of(job, "table") > 100, 60)
    kill(pids(tmp_path / "pids")[0])
    assert job.wait(90).state is JobState.SUCCEEDED
    assert len(pids(tmp_path / "pids")) == 2
    with sqlite3.connect(path) as table:
        found = [value for (value,) in table.execute("SELECT value FROM records ORDER BY value")]
    assert found == list(range(RECORDS))


def test_a_killed_service_comes_back_and_answers_what_it_was_asked(tmp_path: Path) -> None:
    env, file = plant(), tmp_path / "wait"
    env.register_service("process", parts.Process)
    file.touch()
    with connect(env) as shop:
        first = shop.call_service("process", timeout=60)
        waiting = shop.call_service_async("process", str(file), method="later", timeout=90)
        until(lambda: file.with_suffix(".begun").exists(), 30)
        kill(first)
        file.unlink()
        assert waiting.result(90) != first
        assert shop.call_service("process", timeout=60) == waiting.result()


def test_actors_that_hang_are_started_again_and_busy_ones_are_not(tmp_path: Path) -> None:
    env = plant(queue_size=128, hang_timeout=5)
    env.register_service("busy", parts.Process)
    env.register_service("hung", parts.Process)
    env.from_batch(range(RECORDS)).map(parts.Marked, str(tmp_path), name="marked").collect()
    job = env.submit()
    with connect(env) as shop:
        busy, hung = (shop.call_service(name, timeout=60) for name in ("busy", "hung"))
        nap = shop.call_service_async("busy", 8.0, method="nap", timeout=90)
        until(lambda: records_of(job, "marked") > 0, 60)
        for pid in (*pids(tmp_path), hung):
            os.kill(pid, signal.SIGSTOP)
        assert shop.call_service("hung", timeout=90) != hung
        assert nap.result(90) == busy
        assert list(job.results()) == [n + 1 for n in range(RECORDS)]
    assert job.wait(60).state is JobState.SUCCEEDED
    assert len(pids(tmp_path)) == 2


def test_a_stream_of_a_killed_service_fails_and_is_not_begun_again() -> None:
    env = plant()
    env.register_service("process", parts.Process)
    with connect(env) as shop:
        values = shop.call_service("process", method="endless", timeout=60)
        kill(next(values))
        with pytest.raises(RuntimeError, match=r"Service call failed: .*plant-.*\.process was lost"):
            for _ in values:
                pass


def test_what_a_generator_raises_reaches_its_reader_behind_its_values() -> None:
    env = plant()
    env.register_service("process", parts.Process)
    with connect(env) as shop:
        values = shop.call_service("process", method="broken", timeout=60)
        assert next(values) == 1
        with pytest.raises(RuntimeError, match=r"^Service call failed: ValueError: no more$"):
            next(values)


def test_a_stream_that_nobody_reads_any_more_frees_its_service() -> None:
    env = plant()
    env.register_service("process", parts.Process)
    with connect(env) as shop:
        values = shop.call_service("process", method="endless", timeout=60)
        pid = next(values)
        values.close()
        assert shop.call_service("process", timeout=60) == pid  # one call at a time: the generator has ended


def test_an_actor_that_is_lost_too_often_fails_its_job(tmp_path: Path) -> None:
    env = plant(max_restarts=0)
    env.from_batch(range(RECORDS)).map(parts.Marked, str(tmp_path), name="marked").collect()
    job = env.submit()
    until(lambda: records_of(job, "marked") > 0, 60)
    kill(pids(tmp_path)[0])
    with pytest.raises(JobFailedError, match=r"WorkerLostError: actor plant-.*\.marked\.0 was lost"):
        job.wait(60)


def test_a_service_that_is_lost_too_often_fails_its_calls() -> None:
    env = plant(max_restarts=0)
    env.register_service("process", parts.Process)
    with connect(env) as shop:
        kill(shop.call_service("process", timeout=60))
        with pytest.raises(RuntimeError, match=r"WorkerLostError: actor plant-.*\.process was lost"):
            until(lambda: shop.call_service("process", timeout=60) is None, 30)


def test_what_fails_at_the_start_is_said_at_submit() -> None:
    env = plant()
    env.register_service("doubler", parts.Doubler, "what it does not take")
    env.from_batch([1]).map(parts.plus).collect()
    with pytest.raises(ConfigError, match="service doubler: TypeError"):
        env.submit()


def test_lambdas_and_other_records_than_json_are_refused() -> None:
    env = plant()
    env.from_batch([1]).map(lambda record: record).collect()
    with pytest.raises(ConfigError, match="is a lambda and cannot travel"):
        env.submit()
    env = plant()
    env.from_batch([object()]).map(parts.plus, name="plus").collect()
    with pytest.raises(JobFailedError, match="records must be JSON to travel to plus"):
        env.submit(autostop=True)


def test_a_lambda_travels_with_the_key_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    env = plant()
    env.from_batch([1, 2]).map(lambda record: record + 10).collect()
    monkeypatch.setenv(signed.KEY, KEY)
    job = env.submit()
    assert list(job.results()) == [11, 12]
    job.wait(30)
    monkeypatch.setenv(signed.KEY, "another key that is long enough, too")
    with pytest.raises(EndpointError, match="is not signed with the DYNAMO_SIGNING_KEY"):
        env.submit(autostop=True)


def test_a_stream_may_be_empty_or_too_late() -> None:
    env = plant()
    env.register_service("profile", parts.Profile)
    with connect(env) as shop:
        assert list(shop.call_service("profile", 0, method="count", timeout=60)) == []
        held = shop.call_service_async("profile", 3.0, method="slow")
        with pytest.raises(TimeoutError, match=r"^Service call timeout after 0\.\ds: profile\.count$"):
            list(shop.call_service("profile", 5, method="count", timeout=0.2))
        assert held.result(30) == "late"


def test_an_endpoint_of_workers_is_a_service(redis_server: RedisServer) -> None:
    env = plant(redis_url=redis_server.url)
    env.register_service("llm", "dyn://dynamo.Worker.generate")
    env.from_batch(["hello", "there"]).map(parts.Ask).collect()
    with Worker(redis_server.url, service="workers.agg:Worker", name="echo"):
        job = env.submit()
        assert sorted(job.results()) == ["hello", "there"]
        job.wait(30)


def test_a_wrapper_calls_an_actor_like_an_object() -> None:
    actor = ActorWrapper.start(parts.Counter, 5, name="counter")
    assert actor.is_actor
    assert [actor.next(), actor.next(), actor.call_async("next").result(30)] == [5, 6, 7]
    with pytest.raises(ValueError, match="no"):
        actor.refuse()
    assert ActorWrapper.find("counter").next() == 8
    actor.kill()
    with pytest.raises(WorkerLostError, match="counter"):
        actor.next()
    with pytest.raises(WorkerLostError, match="there is no actor counter"):
        ActorWrapper.find("counter")


@pytest.mark.parametrize("off", [-3600, 3600], ids=["behind", "ahead"])
def test_calls_wait_as_long_as_they_say_whatever_the_callers_clock(
    off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process's clock is an hour off that of the actors."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + off)
    env = plant()
    env.register_service("profile", parts.Profile)
    with connect(env) as shop:
        assert shop.call_service("profile", "42", timeout=30)["user_id"] == "42"
        with pytest.raises(TimeoutError):
            shop.call_service("profile", 5, method="slow", timeout=0.3)
