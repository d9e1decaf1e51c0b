"""Workers of a remote pipeline that die or hang: no record is lost or repeated at the sink."""

from __future__ import annotations

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from dynamo_tasks import StreamResult
from dynamo_tasks.errors import JobFailedError
from dynamo_tasks.pipelines import JobState, RemoteEnvironment, RemoteJob, connect
from dynamo_tasks.queue.app import create_app
from dynamo_tasks.store.ledger.fields import Field
from tests.support import pipeline_parts as parts
from tests.support.faults import freeze_worker, kill_redis, kill_worker, restart_redis, thaw_worker
from tests.support.processes import Worker, until
from tests.support.server import RedisServer

RECORDS = 800
OPERATORS = ("--operators", "tests.support.pipeline_parts")


class Plant:
    """A pipeline of counted records on two workers, and who runs which of its tasks."""

    def __init__(self, server: RedisServer, folder: Path, entered: contextlib.ExitStack):
        self.server = server
        self._entered = entered
        self.path = folder / "records.sqlite"
        self.workers = [self.worker("a", wait=False), self.worker("b")]
        self.env = RemoteEnvironment("plant", {"redis_url": server.url, "queue_size": 128})
        self.env.register_service("doubler", parts.Doubler)

    def worker(self, name: str, wait: bool = True) -> Worker:
        return self._entered.enter_context(
            Worker(self.server.url, *OPERATORS, service="", name=name, wait=wait)
        )

    def submit(self, source: Any = None) -> RemoteJob:
        stream = self.env.from_batch(list(range(RECORDS))) if source is None else source(self.env)
        mapped = stream.map(parts.plus, 1, parallelism=2, name="plus")
        mapped.sink(parts.Table, str(self.path), pause=0.001, name="table", parallelism=2)
        mapped.collect()
        job = self.env.submit()
        assert isinstance(job, RemoteJob)
        return job

    def reached(self, job: RemoteJob, records: int) -> None:
        """Wait until the sink has taken some."""
        until(lambda: self.taken(job) >= records, 60, f"{records} records, is {job.status()}")

    def taken(self, job: RemoteJob) -> int:
        return records_of(job, "table")

    def written(self) -> int:
        """Records that the sink has written, whether that was committed or not."""
        with sqlite3.connect(self.path) as table:
            return int(table.execute("SELECT COUNT(*) FROM records").fetchone()[0])

    def runs(self, job: RemoteJob, what: str) -> Worker:
        """The worker that runs a task or hosts a service."""
        owner = until(lambda: self._owner(job, what), 30)
        return next(worker for worker in self.workers if f"instance_id={owner}" in worker.output)

    def _owner(self, job: RemoteJob, what: str) -> str:
        record = f"dt:pipelines:req:{job.plan.request_id(what)}"
        with redis.Redis(port=self.server.port, decode_responses=True) as client:
            return client.hget(record, Field.OWNER) or ""

    def check(self, job: RemoteJob, records: int = RECORDS) -> None:
        """Each record is there once, in the table and among the results."""
        assert job.wait(90).state is JobState.SUCCEEDED
        with sqlite3.connect(self.path) as table:
            found = [value for (value,) in table.execute("SELECT value FROM records ORDER BY value")]
        assert found == [n + 1 for n in range(records)]
        assert sorted(job.results()) == found
        taken = {one.name: one.records_in for one in job.status().operators}
        assert taken["plus"] == taken["table"] == records


def records_of(job: Any, name: str) -> int:
    return next(one.records_in for one in job.status().operators if one.name == name)


@pytest.fixture
def plant(own_server: RedisServer, tmp_path: Path) -> Any:
    with contextlib.ExitStack() as entered:
        made = Plant(own_server, tmp_path, entered)
        entered.callback(made.env.close)
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("task", ["table.0", "batch-1.0"])
def test_a_killed_worker_loses_and_repeats_no_record(plant: Plant, task: str) -> None:
    job = plant.submit()
    plant.reached(job, 200)
    # In mid-round: the sink has written what is not committed, and will be written again.
    until(lambda: plant.written() > plant.taken(job) + 10, 60)
    kill_worker(plant.runs(job, task))
    plant.check(job)


@pytest.mark.slow
def test_one_worker_after_the_other_is_killed(plant: Plant) -> None:
    job = plant.submit(lambda env: env.from_source(parts.Count, RECORDS))
    for records in (100, 250, 400, 550):
        plant.reached(job, records)
        plant.workers.append(plant.worker(f"w{records}"))
        kill_worker(plant.runs(job, "table.1"))
    plant.check(job)


@pytest.mark.slow
def test_a_worker_that_hangs_is_fenced_when_it_wakes_up(plant: Plant) -> None:
    job = plant.submit()
    plant.reached(job, 200)
    hung = plant.runs(job, "table.0")
    freeze_worker(hung)
    until(lambda: plant.runs(job, "table.0") is not hung, 60)
    thaw_worker(hung)
    plant.check(job)


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_on_its_aof(plant: Plant) -> None:
    job = plant.submit()
    plant.reached(job, 200)
    kill_redis(plant.server)
    with ThreadPoolExecutor() as threads:  # whoever asks meanwhile waits for the answer
        asked = [
            threads.submit(what) for what in (job.status, lambda: job.wait(90), lambda: list(job.results()))
        ]
        plant.server.start()
        asked[0].result(30)
        plant.check(job)


@pytest.mark.slow
def test_calls_of_services_outlast_a_restart_of_the_server(plant: Plant) -> None:
    plant.env.from_batch(list(range(RECORDS))).map(parts.AskOne, parallelism=4, name="ask").collect()
    job = plant.env.submit()
    until(lambda: records_of(job, "ask") >= 100, 60)
    restart_redis(plant.server)
    status = job.wait(90)
    assert sorted(job.results()) == [2 * n for n in range(RECORDS)]
    assert status.services[0]["requests"] == RECORDS  # none was asked twice


@pytest.mark.slow
def test_a_service_moves_to_another_worker(plant: Plant) -> None:
    with connect(plant.env) as services:
        assert services.call_service("doubler", 1) == 2
        kill_worker(plant.runs(plant.env.running(), "@doubler"))
        assert services.call_service("doubler", 2, timeout=30) == 4


@pytest.mark.slow
def test_a_worker_that_is_asked_to_end_hands_its_tasks_over(plant: Plant) -> None:
    job = plant.submit()
    plant.reached(job, 200)
    assert plant.runs(job, "table.0").terminate(30) == 0
    plant.check(job)


@pytest.mark.slow
def test_a_task_that_is_cancelled_fails_its_job(plant: Plant) -> None:
    job = plant.submit()
    plant.reached(job, 100)
    app = create_app("canceller", server_url=plant.server.url, make_host=lambda *_, **__: None)
    StreamResult(job.plan.request_id("plus.0"), app=app).cancel()
    with pytest.raises(JobFailedError, match=r"plus\.0"):
        job.wait(60)
