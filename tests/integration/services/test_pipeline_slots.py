"""A job that has more tasks than its workers have slots: it says so, and goes on once there are more."""

from __future__ import annotations

import logging

import pytest

from dynamo_tasks.pipelines import RemoteEnvironment
from dynamo_tasks.pipelines.celery import job as remote_job
from dynamo_tasks.pipelines.graph.job import JobState
from tests.support import pipeline_parts as parts
from tests.support.processes import Worker, until
from tests.support.server import RedisServer

NAMESPACE = "narrow"


def _worker(server: RedisServer, name: str) -> Worker:
    settings = ("Operators.ServiceArgs.concurrency=1", f"Operators.dynamo.namespace={NAMESPACE}")
    operators = ("--operators", "tests.support.pipeline_parts")
    return Worker(server.url, *operators, service="", name=name, settings=settings)


def test_it_is_reported_that_it_waits_for_slots(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote_job, "_SLOW_START", 0.5)
    config = {"redis_url": redis_server.url, "namespace": NAMESPACE, "queue_size": 8}
    with RemoteEnvironment("narrow", config) as env, _worker(redis_server, "first"):
        env.from_batch(list(range(200))).map(parts.plus).collect()
        job = env.submit()
        until(lambda: job.status().operators[0].lag + job.status().operators[1].lag >= 8, 30)
        assert job.status().unbegun == len(job.status().operators) - 1
        with caplog.at_level(logging.WARNING), pytest.raises(TimeoutError):
            job.wait(3)
        assert "job.unbegun" in caplog.text
        with _worker(redis_server, "second"), _worker(redis_server, "third"):
            assert job.wait(60).state is JobState.SUCCEEDED
        assert job.status().unbegun == 0
        assert len(list(job.results())) == 200
