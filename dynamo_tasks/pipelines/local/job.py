"""A job in threads of this process: one per task of an operator, with bounded channels between them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self

from dynamo_tasks.errors import JobFailedError
from dynamo_tasks.observe.log import event
from dynamo_tasks.pipelines.calls.messages import as_exception, describe_error
from dynamo_tasks.pipelines.calls.queues import ChannelClosed, Kept, RecordChannel
from dynamo_tasks.pipelines.graph.job import Job, JobState, JobStatus, OperatorStatus
from dynamo_tasks.pipelines.graph.operators import SOURCES, DeadLetter, Operator, Record, Stage
from dynamo_tasks.pipelines.job_services import JobServices
from dynamo_tasks.pipelines.local.tasks import Edge, RecordTask, Source, Task
from dynamo_tasks.pipelines.service_connection import Connection

if TYPE_CHECKING:
    from dynamo_tasks.pipelines.environment import BaseEnvironment

__all__ = ["LocalJob", "connect_within"]

_UNBOUNDED = 1 << 62


class LocalJob(Job):
    """See :class:`~dynamo_tasks.pipelines.graph.job.Job`.

    Args:
        environment: What to run.
        services: Its services, made for this job alone.
    """

    backend: ClassVar[str] = "local"

    def __init__(self, environment: BaseEnvironment, services: JobServices):
        self.name = environment.name
        self.id = services.job_id
        self._settings = environment.config
        self._stages = list(environment.stages)
        self.services = services
        self.channels: dict[Stage, list[RecordChannel[Record]]] = {}
        self._tasks: list[Task] = []
        self._threads: list[threading.Thread] = []
        self._dead: list[DeadLetter] = []
        # what a batch gives can be read again; of a job without end, each record is kept for one reader only
        endless = any(stage.kind == "source" for stage in self._stages)
        self.collected: RecordChannel[Any] | Kept[Any] = RecordChannel(_UNBOUNDED) if endless else Kept()
        self._stopping = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._left = 0
        self._state = JobState.RUNNING
        self._error: BaseException | None = None
        self.started = time.time()

    # -- start --------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Make everything, then start the threads; what a class's ``__init__`` or ``setup`` raises goes through."""
        self.services.start()
        try:
            self._build()
        except BaseException:
            self.services.stop()
            raise
        self._left = len(self._tasks)
        self._threads = [self._thread(index, task) for index, task in enumerate(self._tasks)]
        event(
            "job.start",
            job=self.id,
            backend=self.backend,
            operators=len(self._stages),
            services=len(self.services.tasks),
        )
        for thread in self._threads:
            thread.start()
        return self

    def _build(self) -> None:
        for stage in self._stages:
            if stage.kind not in SOURCES:
                producers = sum(one.parallelism for one in stage.inputs)
                size = self._settings.queue_size
                self.channels[stage] = [RecordChannel(size, producers) for _ in range(stage.parallelism)]
        for stage in self._stages:
            for index in range(stage.parallelism):
                self._tasks.append(self.make_task(stage, index))
        for done, task in enumerate(self._tasks):
            try:
                task.function.hook("setup")
            except BaseException:
                self._close_again(self._tasks[:done])
                raise

    def _close_again(self, tasks: list[Task]) -> None:
        """Close what was set up, since one that follows could not be."""
        for task in tasks:
            try:
                task.function.hook("close")
            except Exception as exc:  # noqa: BLE001 - the user's, and the first error is the one to report
                event("job.hook_failed", job=self.id, name=task.stage.name, error=exc)

    def make_task(self, stage: Stage, index: int) -> Task:
        """Make the task of one thread; its channel is there already."""
        ctx = self.services.task_context(stage.name, index, stage.parallelism)
        if stage.kind in SOURCES:
            return Source(stage, stage.function.make(ctx), self._stopping)
        return RecordTask(Operator(stage, ctx, self.name), self.channels[stage][index], self)

    def _thread(self, index: int, task: Task) -> threading.Thread:
        edges = [Edge(stage, self.channels[stage]) for stage in self._stages if task.stage in stage.inputs]
        name = f"{self.id}.{task.stage.name}.{index}"
        return threading.Thread(target=self._run, args=(task, edges), name=name)

    # -- threads ------------------------------------------------------------------------------------

    def _run(self, task: Task, edges: list[Edge]) -> None:
        try:
            task.run(edges)
        except ChannelClosed:
            pass
        except BaseException as exc:  # noqa: BLE001 - the user's: it fails the job
            self._fail(task.stage.name, as_exception(exc))
        self._close(task)
        for edge in edges:
            for channel in edge.channels:
                channel.done()
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._finish()

    def _close(self, task: Task) -> None:
        try:
            task.function.hook("close")
        except BaseException as exc:  # noqa: BLE001 - the user's: a sink that could not write its rest has failed
            self._fail(task.stage.name, as_exception(exc))

    def _fail(self, operator: str, exc: Exception) -> None:
        with self._lock:
            if self._error is not None or self._state.is_over:
                return
            self._error = exc
        event("job.failed", job=self.id, operator=operator, error=exc, exc=exc)
        self._abort()

    def _abort(self) -> None:
        self._stopping.set()
        for channels in self.channels.values():
            for channel in channels:
                channel.close()

    def _finish(self) -> None:
        """End the job, since its last task has ended."""
        self.services.stop()
        with self._lock:
            if self._error is not None:
                self._state = JobState.FAILED
            else:
                self._state = JobState.STOPPED if self._state is JobState.STOPPING else JobState.SUCCEEDED
        self.collected.done()
        records = sum(task.counts["out"] for task in self._tasks if task.stage.kind in SOURCES)
        event(
            "job.end",
            job=self.id,
            state=self._state.value,
            records=records,
            duration_s=time.time() - self.started,
        )
        self._over.set()

    def add_dead_letters(self, letters: list[DeadLetter]) -> None:
        """Keep dead letters, and take them out of ``letters``.

        Raises:
            JobFailedError: more than the environment's ``dead_letter_limit``.
        """
        with self._lock:
            self._dead += letters
            letters.clear()
            if len(self._dead) > self._settings.dead_letter_limit:
                raise JobFailedError(
                    f"more than {self._settings.dead_letter_limit} dead letters (dead_letter_limit)"
                )

    # -- the user's side ----------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> JobStatus:
        """See :meth:`Job.wait`."""
        self._await_end(timeout)
        if self._error is not None:
            raise JobFailedError(f"job {self.id} failed: {describe_error(self._error)}") from self._error
        return self.status()

    def _await_end(self, timeout: float | None) -> None:
        if not self._over.wait(timeout):
            raise TimeoutError(f"job {self.id} is not over after {timeout} s")
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def stop(self, *, drain: bool = True, timeout: float | None = None) -> JobStatus:
        """See :meth:`Job.stop`."""
        with self._lock:
            if not self._state.is_over:
                self._state = JobState.STOPPING
        self._stopping.set()
        if not drain:
            self._abort()
        if threading.current_thread() not in self._threads:  # an operator that stops its own job
            self._await_end(timeout)
        return self.status()

    def results(self) -> Iterator[Any]:
        """See :meth:`Job.results`."""
        yield from self.collected

    def dead_letters(self) -> list[DeadLetter]:
        """See :meth:`Job.dead_letters`."""
        with self._lock:
            return list(self._dead)

    def status(self) -> JobStatus:
        """See :meth:`Job.status`."""
        error = describe_error(self._error) if self._error is not None else None
        operators = [self._operator_status(stage) for stage in self._stages]
        return JobStatus(
            self.id,
            self.name,
            self.backend,
            self._state,
            self.started,
            error,
            operators,
            self.services.statistics(),
        )

    def _operator_status(self, stage: Stage) -> OperatorStatus:
        tasks = [task for task in self._tasks if task.stage is stage]
        total: Callable[[str], int] = lambda key: sum(task.counts[key] for task in tasks)  # noqa: E731
        lag = sum(len(channel) for channel in self.channels.get(stage, ()))
        taken = total("out") if stage.kind in SOURCES else total("in")
        return OperatorStatus(
            stage.name, stage.kind, stage.parallelism, total("in"), total("out"), total("skipped"), total("dead"),
            lag, round(taken / max(time.time() - self.started, 1e-6), 3),
        )  # fmt: skip


def connect_within(
    environment: BaseEnvironment, make_services: Callable[[BaseEnvironment], JobServices]
) -> Connection:
    """Connect to the newest job of this process that runs, else to services that are started for the connection."""
    for job in reversed(environment.jobs):
        if isinstance(job, LocalJob) and not job.is_over:
            return Connection(job.services.task_context("connection"), lambda: None)
    services = make_services(environment)
    services.start()
    return Connection(services.task_context("connection"), services.stop)
