"""Lambdas on workers: with the same key on both sides, and only then."""

from __future__ import annotations

import pytest

from dynamo_tasks.errors import JobFailedError
from dynamo_tasks.pipelines import JobState, RemoteEnvironment
from dynamo_tasks.pipelines.plans import signed
from tests.support.processes import Worker
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow

KEY = "the key of both sides, 32 or more"
OPERATORS = "dynamo_tasks.pipelines.celery.worker:Operators"


def environment(server: RedisServer) -> RemoteEnvironment:
    class Doubler:
        def process(self, value: int) -> int:
            return 2 * value

    env = RemoteEnvironment("signed", {"redis_url": server.url})
    env.register_service("doubler", Doubler)
    env.from_batch([1, 2]).map(lambda record: record + 10, name="plus").collect()
    return env


def test_code_runs_where_the_key_is_the_same(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(signed.KEY, KEY)
    with (
        Worker(redis_server.url, service=OPERATORS, env={signed.KEY: KEY}) as worker,
        environment(redis_server) as env,
    ):
        job = env.submit()
        assert list(job.results()) == [11, 12]
        assert job.wait(30).state is JobState.SUCCEEDED
        assert KEY not in worker.output


@pytest.mark.parametrize(
    ("there", "why"),
    [
        ({signed.KEY: "another key that is long enough, too"}, "is not signed with the DYNAMO_SIGNING_KEY"),
        ({}, "needs DYNAMO_SIGNING_KEY, which is not set in this process"),
    ],
)
def test_a_worker_with_another_key_or_none_refuses(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, there: dict[str, str], why: str
) -> None:
    monkeypatch.setenv(signed.KEY, KEY)
    with (
        Worker(redis_server.url, service=OPERATORS, env=there) as worker,
        environment(redis_server) as env,
    ):
        job = env.submit()
        with pytest.raises(JobFailedError, match=why):
            job.wait(30)
        assert KEY not in worker.output
        assert there.get(signed.KEY, KEY) not in worker.output
