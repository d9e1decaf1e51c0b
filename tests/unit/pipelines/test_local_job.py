"""Jobs in threads: backpressure, ends, what a script sees."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks.errors import ConfigError, JobFailedError
from dynamo_tasks.pipelines import (
    BatchFunction,
    JobState,
    LocalEnvironment,
    SinkFunction,
    SourceFunction,
    connect,
)
from tests.support.pipeline_parts import Profile, fails_on, plus
from tests.support.processes import until

EXAMPLE = Path(__file__).with_name("sage_example.py")


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    until(lambda: set(threading.enumerate()) <= before, 10, lambda: f"no more threads than {before}")


def script(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=60, check=False)


def test_the_example_of_the_seed_prints_its_record_before_the_interpreter_ends() -> None:
    done = script(str(EXAMPLE))
    assert done.stdout == "{'user_id': '42', 'profile': {'user_id': '42', 'score': 0.9}}\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_a_script_that_does_not_wait_sees_why_its_job_failed() -> None:
    code = "\n".join([
        "from dynamo_tasks.pipelines import LocalEnvironment", "env = LocalEnvironment('demo')",
        "env.from_batch([1, 0]).map(lambda x: 1 / x).print('got ')", "env.submit()",
    ])  # fmt: skip
    done = script("-c", code)
    assert 'operator=map-1 error="ZeroDivisionError: division by zero"' in done.stderr


@pytest.mark.parametrize("module", ["environment", "service_connection"])
def test_examples_in_docstrings(module: str) -> None:
    found = importlib.import_module(f"dynamo_tasks.pipelines.{module}")
    assert doctest.testmod(found, optionflags=doctest.ELLIPSIS).failed == 0


def test_a_source_waits_for_a_slow_sink() -> None:
    made = 0
    gate = threading.Semaphore(0)

    def numbers() -> Iterator[int]:
        nonlocal made
        while made < 1000:
            made += 1
            yield made

    env = LocalEnvironment("slow", {"queue_size": 4})
    env.from_batch(numbers).map(plus).sink(lambda record: gate.acquire())
    job = env.submit()
    for _ in range(20):
        gate.release()
    until(lambda: job.status().operators[2].records_in >= 20)
    time.sleep(0.05)  # nothing may follow: there is no signal for that
    # two channels of 4, two batches taken of up to 4, and one in each hand
    assert made <= 21 + 4 * 4 + 3
    assert job.status().operators[1].lag > 0
    gate.release(1000)
    assert job.wait(30).operators[2].records_in == 1000


def test_jobs_that_fail_take_everything_down() -> None:
    env = LocalEnvironment("shop", {"queue_size": 1})
    env.register_service("profile", Profile)
    env.from_batch(range(1000)).map(plus, 0, parallelism=3).map(fails_on, 500).sink(lambda record: None)
    with pytest.raises(JobFailedError, match="ValueError: bad record 500") as failed:
        env.submit(autostop=True)
    assert isinstance(failed.value.__cause__, ValueError)


def test_an_operator_that_cannot_be_made_fails_submit() -> None:
    class Bad(SinkFunction):
        def __init__(self) -> None:
            raise ValueError("no such table")

    env = LocalEnvironment("shop")
    env.register_service("profile", Profile)
    env.from_batch([1]).sink(Bad)
    with pytest.raises(ValueError, match="no such table"):
        env.submit()


def test_what_was_set_up_is_closed_where_the_next_cannot_be() -> None:
    log: list[str] = []

    class First(SinkFunction):
        def setup(self) -> None:
            log.append("setup")

        def close(self) -> None:
            log.append("close")
            raise OSError("must not hide the reason")

    class Second(SinkFunction):
        def setup(self) -> None:
            raise ValueError("no such table")

        def close(self) -> None:
            log.append("was never set up")

    env = LocalEnvironment("shop")
    stream = env.from_batch([1])
    stream.sink(First)
    stream.sink(Second)
    with pytest.raises(ValueError, match="no such table"):
        env.submit()
    assert log == ["setup", "close"]


def test_an_operator_may_stop_its_own_job() -> None:
    made: list[Any] = []
    submitted = threading.Event()

    def stop(record: int) -> None:
        assert submitted.wait(30)
        made[0].stop()

    env = LocalEnvironment("shop")
    env.from_source(lambda: iter(range(10**9))).sink(stop)
    made.append(env.submit())
    submitted.set()
    assert made[0].wait(30).state is JobState.STOPPED


def test_an_iterator_is_read_once() -> None:
    env = LocalEnvironment("shop")
    env.from_batch(iter([1, 2])).collect()
    assert list(env.submit(autostop=True).results()) == [1, 2]
    with pytest.raises(JobFailedError, match="was read by an earlier job"):
        env.submit(autostop=True)


def test_a_sink_that_cannot_write_its_rest_fails_the_job() -> None:
    class Buffered(SinkFunction):
        def execute(self, record: Any) -> None:
            pass

        def close(self) -> None:
            raise OSError("disk full")

    env = LocalEnvironment("shop")
    env.from_batch([1]).sink(Buffered)
    with pytest.raises(JobFailedError, match="OSError: disk full"):
        env.submit(autostop=True)


def test_stop_without_drain_drops_what_is_on_its_way() -> None:
    reached = threading.Event()
    release = threading.Event()

    def hold(record: int) -> None:
        reached.set()
        release.wait(30)

    env = LocalEnvironment("shop", {"queue_size": 8})
    env.from_source(lambda: iter(range(10**9))).sink(hold)
    job = env.submit()
    assert reached.wait(30)
    threading.Timer(0.05, release.set).start()
    assert job.stop(drain=False, timeout=30).state is JobState.STOPPED
    assert job.stop(timeout=30).state is JobState.STOPPED
    assert job.status().operators[1].records_in < 30


def test_wait_has_a_time_out_and_the_job_goes_on() -> None:
    class Idle(SourceFunction):
        def execute(self) -> None:
            return None

    with LocalEnvironment("idle") as env:
        env.from_source(Idle).print()
        job = env.submit()
        with pytest.raises(TimeoutError, match=r"is not over after 0\.01 s"):
            job.wait(0.01)
        assert job.status().state is JobState.RUNNING
    assert job.status().state is JobState.STOPPED


def test_too_many_dead_letters_fail_the_job() -> None:
    env = LocalEnvironment("shop", {"dead_letter_limit": 2, "on_error": "dead_letter"})
    env.from_batch([0, 0, 0]).map(fails_on, 0).print()
    with pytest.raises(JobFailedError, match="more than 2 dead letters"):
        env.submit(autostop=True)


def test_a_connection_uses_the_services_of_the_running_job() -> None:
    with LocalEnvironment("shop") as env:
        env.register_service("profile", Profile)
        env.from_source(lambda: iter(int, 1)).sink(lambda record: None)
        job = env.submit()
        with connect(env) as shop:
            assert shop.services.profile.lookup("1") == "found 1"
        assert job.status().services[0]["requests"] == 1


def test_a_batch_function_ends_with_none() -> None:
    class Three(BatchFunction):
        def __init__(self, first: int) -> None:
            self.left = [first, first + 1, first + 2]

        def execute(self) -> int | None:
            return self.left.pop(0) if self.left else None

    env = LocalEnvironment("shop")
    env.from_batch(Three, 5).collect()
    assert list(env.submit(autostop=True).results()) == [5, 6, 7]


def test_sources_that_are_none_are_refused() -> None:
    env = LocalEnvironment("shop")
    with pytest.raises(ConfigError, match="a list of records, not one text"):
        env.from_batch("abc")
    with pytest.raises(ConfigError, match="BatchFunction"):
        env.from_batch(5)
    with pytest.raises(ConfigError, match="is an instance already"):
        env.from_batch([1]).sink(_Printer(), 5)
    with pytest.raises(ConfigError, match="an operator takes a function"):
        env.from_batch([1]).sink(5)
    with pytest.raises(ConfigError, match="keyby runs in one task"):
        env.from_batch([1]).keyby(plus, parallelism=2)


class _Printer(SinkFunction):
    def execute(self, record: Any) -> None:
        print(record)


def test_a_key_that_is_none_is_a_bad_record() -> None:
    env = LocalEnvironment("shop")
    env.from_batch([1, 2]).keyby(
        lambda record: object() if record == 1 else "k", on_error="dead_letter"
    ).collect()
    job = env.submit(autostop=True)
    assert list(job.results()) == [2]
    assert "a key must be JSON" in job.dead_letters()[0].error


def test_records_and_answers_are_handed_over_as_they_are() -> None:
    """As by a queue of Python; on Celery and Ray everybody gets a plain copy."""
    own, answer = object(), (1, {2})

    class Gives:
        def process(self, record: Any) -> Any:
            return answer if record is own else None

    env = LocalEnvironment("objects")
    env.register_service("gives", Gives)
    env.from_batch([own]).map(lambda record: [record]).collect()
    [[found]] = env.submit().results()
    assert found is own
    with connect(env) as shop:
        assert shop.call_service("gives", own) is answer
