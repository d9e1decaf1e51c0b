"""What holds for services and pipelines, whatever carries them."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from dynamo_tasks.errors import ConfigError, InvalidNameError, JobFailedError
from dynamo_tasks.pipelines import JobState, RemoteEnvironment, connect
from tests.support import pipeline_parts as parts
from tests.support.processes import Worker, until
from tests.support.server import RedisServer

MakeEnvironment = Callable[..., Any]


@pytest.fixture
def env(make_env: MakeEnvironment) -> Any:
    made = make_env("shop")
    made.register_service("profile", parts.Profile, score=0.5)
    return made


def results(env: Any) -> list[Any]:
    job = env.submit()
    found = list(job.results())
    assert job.wait(30).state is JobState.SUCCEEDED
    return found


# -- operators ---------------------------------------------------------------------------------------


def test_the_operators(env: Any) -> None:
    stream = env.from_batch([1, 2, 3, 4]).map(parts.plus, 10).filter(parts.evens)
    stream.flatmap(parts.halves).map(parts.plus, more=100).collect()
    assert sorted(results(env)) == [106, 106, 107, 107]


def test_a_function_may_be_a_class_or_an_instance(env: Any) -> None:
    env.register_service("doubler", parts.Doubler)
    env.from_batch([{"user_id": "42"}]).map(parts.Enrich()).collect()
    env.from_batch([0]).flatmap(parts.AskAll, 3).collect()
    found = results(env)
    profile = {"user_id": "42", "score": 0.5}
    assert {"user_id": "42", "profile": profile, "found": "found 42!", "again": "found 42"} in found
    assert [one for one in found if isinstance(one, int)] == [0, 2, 4]


def test_a_stream_that_is_used_twice_branches_and_connect_merges(env: Any) -> None:
    numbers = env.from_batch([1, 2, 3])
    small, large = numbers.map(parts.plus, 10), numbers.map(parts.plus, 100)
    small.connect(large, env.from_batch([7])).collect()
    assert sorted(results(env)) == [7, 11, 12, 13, 101, 102, 103]


def test_order_within_a_key_is_kept(env: Any) -> None:
    records = [[f"k{n % 7}", n // 7] for n in range(350)]
    env.from_batch(records).keyby(parts.key_of).map(parts.HeldBack, parallelism=4).collect()
    found = results(env)
    assert sorted(found) == sorted(records)
    for key in {record[0] for record in records}:
        assert [n for k, n in found if k == key] == list(range(50))


@pytest.mark.parametrize("parallelism", [1, 3])
def test_bad_records_are_skipped_and_counted(env: Any, parallelism: int) -> None:
    env.from_batch([1, 2, 3]).map(
        parts.fails_on, 2, on_error="skip", name="check", parallelism=parallelism
    ).collect()
    job = env.submit()
    assert sorted(job.results()) == [1, 3]
    status = job.wait(30)
    [check] = [one for one in status.operators if one.name == "check"]
    assert (check.records_in, check.records_out, check.skipped, check.lag) == (3, 2, 1, 0)


def test_bad_records_become_dead_letters(env: Any) -> None:
    env.from_batch([1, 2, 3]).map(parts.fails_on, 2, on_error="dead_letter", name="check").collect()
    job = env.submit()
    assert list(job.results()) == [1, 3]
    job.wait(30)
    [letter] = job.dead_letters()
    assert (letter.operator, letter.value, letter.error) == ("check", 2, "ValueError: bad record 2")


def test_a_bad_record_fails_the_job(env: Any) -> None:
    env.from_batch([1, 2, 3]).map(parts.fails_on, 2).collect()
    job = env.submit()
    with pytest.raises(JobFailedError, match="ValueError: bad record 2"):
        job.wait(30)
    assert job.status().state is JobState.FAILED


def test_a_streaming_job_runs_until_it_is_stopped(env: Any) -> None:
    env.from_source(parts.Ticker).map(parts.plus, 0, name="plus").collect()
    job = env.submit()
    until(lambda: job.status().operators[1].records_out >= 5, 30)
    assert job.status().state is JobState.RUNNING
    status = job.stop(timeout=30)
    assert status.state is JobState.STOPPED
    found = list(job.results())
    assert found == [2 * n + 1 for n in range(len(found))]
    source, plus, _ = status.operators
    assert source.records_out == plus.records_in == len(found) >= 5  # what was on its way went through


def test_what_is_wrong_is_said_where_it_is_declared(make_env: MakeEnvironment) -> None:
    with pytest.raises(InvalidNameError, match="empty"):
        make_env("")
    env = make_env("shop")
    with pytest.raises(InvalidNameError, match="empty"):
        env.register_service("", parts.Profile)
    env.register_service("profile", parts.Profile)
    with pytest.raises(ConfigError, match="registered already"):
        env.register_service("profile", parts.Profile)
    with pytest.raises(ConfigError, match="must be a class"):
        env.register_service("other", parts.Profile.process)
    with pytest.raises(ConfigError, match="nothing to run"):
        env.submit()
    stream = env.from_batch([1])
    with pytest.raises(ConfigError, match="nobody takes the records of 'batch-1'"):
        env.submit()
    with pytest.raises(ConfigError, match="parallelism must be an integer from 1 on, not 0"):
        stream.map(parts.plus, parallelism=0)
    with pytest.raises(ConfigError, match="did you mean 'skip'"):
        stream.map(parts.plus, on_error="skp")
    with pytest.raises(ConfigError, match="did you mean 'queue_size'"):
        make_env("shop", {"queuesize": 3})
    with pytest.raises(ConfigError, match="queue_size"):
        make_env("shop", {"queue_size": 0})
    with pytest.raises(ConfigError, match="belongs to environment 'other'"):
        stream.connect(make_env("other").from_batch([1]))


# -- calls -------------------------------------------------------------------------------------------


def test_calls_from_a_script(env: Any) -> None:
    with connect(env) as shop:
        assert shop.call_service("profile", "42") == {"user_id": "42", "score": 0.5}
        assert shop.call_service("profile", "42", method="lookup", suffix="?") == "found 42?"
        assert shop.services.profile.lookup("7") == "found 7"
        assert shop.services.profile.later("7") == "later 7"
        assert shop.call_service_async("profile", "1", method="lookup").result(30) == "found 1"
        assert list(shop.call_service("profile", 5, method="count")) == [0, 1, 2, 3, 4]


def test_errors_of_calls(env: Any) -> None:
    with connect(env) as shop:
        with pytest.raises(RuntimeError, match=r"^Service call failed: ValueError: no user 42$") as failed:
            shop.call_service("profile", "42", method="broken")
        assert failed.value.__cause__ is not None
        with pytest.raises(RuntimeError, match="Service call failed"):
            shop.call_service_async("profile", "42", method="broken").result(30)
        with pytest.raises(
            LookupError, match=r"no service 'profil'; did you mean 'profile'\? \(known: profile\)"
        ):
            shop.call_service("profil", "42")
        with pytest.raises(
            RuntimeError, match=r"no method 'lookip'; did you mean 'lookup'\? \(available: .*slow"
        ):
            shop.services.profile.lookip("42")


def test_calls_that_take_too_long(env: Any) -> None:
    with connect(env) as shop:
        shop.call_service("profile", "warm")
        with pytest.raises(TimeoutError, match=r"^Service call timeout after 0\.1s: profile\.slow$"):
            shop.call_service("profile", 0.5, method="slow", timeout=0.1)
        late = shop.call_service_async("profile", 1.0, method="slow", timeout=0.1)
        with pytest.raises(TimeoutError, match=r"^Service call timeout after 0\.1s: profile\.slow$"):
            late.result(30)


def test_failed_calls_are_retried(env: Any) -> None:
    env.register_service("flaky", parts.Flaky)
    with connect(env) as shop:
        with pytest.raises(RuntimeError, match="ConnectionError: call 1"):
            shop.call_service("flaky", 1, retries=5, retry_on=ValueError)
        assert shop.call_service("flaky", 1, retries=5, retry_on=(ValueError, ConnectionError)) == 1
        assert shop.call_service("flaky", method="asked") == 3


def test_hundreds_of_calls_in_flight_from_one_operator(env: Any) -> None:
    env.register_service("doubler", parts.Doubler)
    env.from_batch([0, 1000]).flatmap(parts.AskAll(300)).collect()
    assert results(env) == [2 * n for n in [*range(300), *range(1000, 1300)]]


def test_services_call_services(env: Any) -> None:
    env.register_service("front", parts.Front)
    with connect(env) as shop:
        assert shop.call_service("front", "42") == "via front: found 42"


def test_services_are_counted(env: Any) -> None:
    env.from_batch([{"user_id": "42"}]).map(parts.Enrich).collect()
    job = env.submit()
    assert len(list(job.results())) == 1
    [profile] = job.wait(30).services
    assert (profile["service"], profile["requests"], profile["errors"]) == ("profile", 3, 0)


def test_status_shows_remote_jobs_with_their_rates_and_lag(
    redis_server: RedisServer, operators: Worker
) -> None:
    env = RemoteEnvironment("watched", {"redis_url": redis_server.url, "queue_size": 64})
    env.register_service("doubler", parts.Doubler)
    env.from_source(itertools.count).map(parts.plus, name="plus", parallelism=2).sink(parts.pause, 0.005)
    with env:
        earliest = time.time()
        job = env.submit()
        latest = time.time()
        until(lambda: job.status().operators[2].records_in > 100, 30)
        until(lambda: job.status().services, 30)
        asked = time.time()
        [shown] = [one for one in status(redis_server)["jobs"] if one["id"] == job.id]
        answered = time.time()
        assert (shown["namespace"], shown["state"]) == ("pipelines", "RUNNING")
        source, plus, sink = shown["operators"]
        assert [one["name"] for one in (source, plus, sink)] == ["source-1", "plus", "sink-1"]
        # What is before the sink is faster: as much waits as may, but for the round that is handled.
        assert 0 < sink["lag"] <= 64 + 2 * 8 * 64
        for before, behind in (
            (source, plus),
            (plus, sink),
        ):  # they are not read in one step: a few rounds apart
            assert abs(before["records_out"] - behind["records_in"] - behind["lag"]) <= 4 * 8 * 64
        for one, taken in (
            (source, source["records_out"]),
            (plus, plus["records_in"]),
            (sink, sink["records_in"]),
        ):
            least, most = taken / (answered - earliest), taken / (asked - latest)
            assert 0.99 * least <= one["rate"] <= 1.01 * most, one
        assert 0 < sink["rate"] <= 200  # it sleeps 5 ms for each
        assert shown["services"][0]["service"] == "doubler"
        again = env.job(job.id)
        assert again.status().state is JobState.RUNNING
        assert again.stop(drain=False, timeout=30).state is JobState.STOPPED


def status(server: RedisServer) -> Any:
    """What the command prints."""
    argv = [sys.executable, "-m", "dynamo_tasks", "status", "--json"]
    environ = {**os.environ, "DYNAMO_REDIS_URL": server.url}
    return json.loads(subprocess.run(argv, env=environ, capture_output=True, check=True, timeout=60).stdout)
