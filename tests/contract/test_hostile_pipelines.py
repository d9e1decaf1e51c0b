"""What users' code does to a pipeline: it exits, gives what cannot travel, fails before it began."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from dynamo_tasks.errors import JobFailedError
from dynamo_tasks.pipelines import JobState, RemoteEnvironment, connect
from tests.support import pipeline_parts as parts
from tests.support.processes import Worker, until
from tests.support.server import RedisServer

MakeEnvironment = Callable[..., Any]


quick = pytest.mark.parametrize("make_env", ["local", "celery"], indirect=True)
"""Where an actor per case would show nothing more."""


def is_remote(env: Any) -> bool:
    return isinstance(env, RemoteEnvironment)


def test_an_empty_batch_ends(make_env: MakeEnvironment) -> None:
    env = make_env("empty")
    env.register_service("doubler", parts.Doubler)
    env.from_batch([]).keyby(parts.key_of).map(parts.plus, parallelism=2).collect()
    job = env.submit(autostop=True)
    assert (list(job.results()), job.status().state) == ([], JobState.SUCCEEDED)


@quick
@pytest.mark.parametrize("how", ["SystemExit", "CancelledError", "KeyboardInterrupt"])
def test_code_that_exits_is_a_bad_record(make_env: MakeEnvironment, how: str) -> None:
    env = make_env("exits")
    env.from_batch([1, 2, 3]).map(parts.leaves_on, 2, how, on_error="dead_letter").collect()
    job = env.submit()
    assert list(job.results()) == [1, 3]
    job.wait(30)
    [letter] = job.dead_letters()
    assert (letter.value, letter.error) == (2, f"{how}: 2")


@quick
def test_code_that_exits_fails_its_job(make_env: MakeEnvironment) -> None:
    env = make_env("exits")
    env.from_batch([1, 2, 3]).map(parts.leaves_on, 2, "SystemExit").collect()
    with pytest.raises(JobFailedError, match="SystemExit: 2"):
        env.submit().wait(30)


def test_a_service_that_exits_fails_that_call_alone(make_env: MakeEnvironment) -> None:
    env = make_env("exits")
    env.register_service("profile", parts.Profile)
    with connect(env) as shop:
        for how in ("SystemExit", "CancelledError"):
            with pytest.raises(RuntimeError, match=f"Service call failed: .*{how}"):
                shop.call_service("profile", how, method="leave")
        assert shop.call_service("profile", "42", method="lookup") == "found 42"


def test_a_record_that_cannot_travel_is_a_bad_one(make_env: MakeEnvironment) -> None:
    env = make_env("odd")
    env.from_batch([1, 2, 3, 4]).map(parts.odd_things, on_error="dead_letter").collect()
    job = env.submit()
    found = list(job.results())
    job.wait(30)
    if is_remote(env):
        assert found == [1]
        assert [letter.value for letter in job.dead_letters()] == [2, 3, 4]
        assert all("records must be JSON to travel" in letter.error for letter in job.dead_letters())
    else:
        assert len(found) == 4  # nothing travels


def test_arguments_that_cannot_travel_are_reported_at_once(make_env: MakeEnvironment) -> None:
    env = make_env("odd")
    env.register_service("profile", parts.Profile)
    if not is_remote(env):
        return
    with connect(env) as shop:
        shop.call_service("profile", "warm")
        began = time.monotonic()
        for odd in (object(), "\ud800", parts.nested(100_000)):
            with pytest.raises(RuntimeError, match="Service call failed"):
                shop.call_service("profile", odd, timeout=60)
        assert time.monotonic() - began < 30


@quick
@pytest.mark.parametrize("where", ["init", "setup"])
def test_a_service_that_cannot_be_made_fails_its_job(make_env: MakeEnvironment, where: str) -> None:
    env = make_env("broken")
    env.register_service("broken", parts.Broken, where)
    env.from_batch([1]).collect()
    with pytest.raises(Exception, match=r"no licence"):
        env.submit(autostop=True)


def test_no_record_is_read_before_the_services_are_there(make_env: MakeEnvironment) -> None:
    """Else a short job would be over before anybody knows that one of its services cannot be made."""
    env = make_env("broken")
    env.register_service("broken", parts.SlowlyBroken, "setup")
    env.from_batch([1]).collect()
    with pytest.raises(Exception, match=r"no licence"):
        env.submit(autostop=True)


@quick
@pytest.mark.parametrize("where", ["init", "setup", "close"])
def test_a_function_that_cannot_be_made_fails_its_job(make_env: MakeEnvironment, where: str) -> None:
    env = make_env("broken")
    env.from_batch([1]).map(parts.plus).sink(parts.BrokenSink, where)
    with pytest.raises(Exception, match=r"no licence"):
        env.submit(autostop=True)


@quick
def test_two_jobs_of_one_name_run_beside_each_other(make_env: MakeEnvironment) -> None:
    jobs = []
    for more in (10, 20):
        env = make_env("twin")
        env.register_service("doubler", parts.Doubler)
        env.from_batch([1, 2]).map(parts.AskOne).map(parts.plus, more).collect()
        jobs.append(env.submit())
    assert [sorted(job.results()) for job in jobs] == [[12, 14], [22, 24]]
    for job in jobs:
        job.wait(30)


# -- on Celery alone ---------------------------------------------------------------------------------


def test_a_job_that_nobody_runs_is_stopped_at_once(redis_server: RedisServer) -> None:
    with RemoteEnvironment("idle", {"redis_url": redis_server.url, "namespace": "nobody"}) as env:
        env.from_batch([1]).collect()
        assert env.submit().stop(timeout=30).state is JobState.STOPPED


def test_services_without_operators_are_stopped(redis_server: RedisServer, operators: Worker) -> None:
    with RemoteEnvironment("alone", {"redis_url": redis_server.url}) as env:
        env.register_service("doubler", parts.Doubler)
        with connect(env) as services:
            assert services.call_service("doubler", 1, timeout=30) == 2
            job = env.running()
            assert job is not None
            assert job.stop(timeout=30).state is JobState.STOPPED


def test_a_job_that_the_server_has_forgotten_is_over(redis_server: RedisServer, operators: Worker) -> None:
    with RemoteEnvironment("gone", {"redis_url": redis_server.url}) as env:
        env.from_batch([1]).collect()
        job = env.submit(autostop=True)
        with redis.Redis(port=redis_server.port) as client:
            client.delete(f"dt:pipelines:job:{job.id}")
        assert list(env.submit(autostop=True).results()) == [1]


def test_a_function_that_never_returns_does_not_hold_up_the_end(
    redis_server: RedisServer, operators: Worker
) -> None:
    with RemoteEnvironment("stuck", {"redis_url": redis_server.url}) as env:
        env.from_batch([1, 2]).sink(parts.pause, 15.0, name="stuck")
        job = env.submit()
        until(lambda: job.status().operators[0].records_out == 2, 30)
        began = time.monotonic()
        assert job.stop(drain=False, timeout=30).state is JobState.STOPPED
        assert time.monotonic() - began < 10
