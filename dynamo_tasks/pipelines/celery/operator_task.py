"""A task of an operator in a worker: takes chunks, applies the function, commits.

One round: read what waits, run the user's function over it in a thread of the task's own, and commit output, consumed
input and counters in one step in Redis (``store/ledger/lua/job_commit.lua``). What was not committed did not happen:
the next attempt, wherever it runs, begins with the same input.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from itertools import cycle
from typing import Any

import msgspec

from dynamo_tasks.errors import FencedError, JobFailedError
from dynamo_tasks.observe.log import event
from dynamo_tasks.pipelines.calls.messages import describe_error, guarded
from dynamo_tasks.pipelines.celery.session import JobSession
from dynamo_tasks.pipelines.graph.job import JobState
from dynamo_tasks.pipelines.graph.operators import Operator, Record, partition
from dynamo_tasks.pipelines.plans.plan import OperatorPlan
from dynamo_tasks.store.job_records import Checkpoint, Commit, RecordChunk
from dynamo_tasks.store.redis.retry import retry_until_up

__all__ = ["CHUNK", "JobOver", "OperatorTask", "TaskRunner"]

CHUNK = 64
"""Most records of one chunk."""
_ENTRIES = 8
"""Most chunks of one round."""
_CODE_ENDS_WITHIN = 1.0
"""Seconds that the user's code may go on after the end of its job."""


class JobOver(Exception):  # noqa: N818 - a state, not an error
    """The job has ended meanwhile."""


class _Edge:
    """The edge from this task to all tasks of one operator that follows."""

    def __init__(self, plan: OperatorPlan, index: int):
        self._keyed = plan.keyed
        self._tasks = plan.tasks
        # Where several tasks send, they begin at different ones.
        self._turns = cycle(plan.tasks[index % plan.parallelism :] + plan.tasks[: index % plan.parallelism])

    def split(self, records: list[Record]) -> list[RecordChunk]:
        """Cut records into chunks, each for one task; those of a key go to one task, in their order."""
        if not self._keyed:
            return [
                RecordChunk(next(self._turns), records[at : at + CHUNK])
                for at in range(0, len(records), CHUNK)
            ]
        parts: dict[str, list[Record]] = {}
        for record in records:
            task = self._tasks[partition(record.key, len(self._tasks))]
            parts.setdefault(task, []).append(record)
        return [RecordChunk(task, part) for task, part in parts.items()]


class TaskRunner:
    """Common part of tasks of sources and of operators: the checkpoint and its commits.

    Args:
        session: The job, here.
        plan: The operator.
        index: Which of its tasks.
        claim: Lease and epoch of the attempt.
    """

    def __init__(self, session: JobSession, plan: OperatorPlan, index: int, claim: tuple[int, int]):
        self.session = session
        self.plan = plan
        self.name = plan.tasks[index]
        self.index = index
        self._claim = claim
        self._request = session.plan.request_id(self.name)
        following = session.plan.following(plan.name)
        self._edges = [_Edge(one, index) for one in following]
        self._following = [task for one in following for task in one.tasks]
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=f"{session.plan.id}.{self.name}")
        self.number = 0

    async def in_thread(self, function: Any, *args: Any) -> Any:
        """Run the user's code in the task's own thread.

        Raises:
            JobOver: the job has ended, and the code goes on and on.
            Exception: what it raises.
        """
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, guarded, function, *args)
        over = loop.create_task(self.session.watch.wait_over())
        try:
            await asyncio.wait((work, over), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await asyncio.wait((work,), timeout=_CODE_ENDS_WITHIN)
        finally:
            over.cancel()
        if not work.done():
            raise JobOver  # the function does not return: it is left behind
        return work.result()

    async def checkpoint(self) -> Checkpoint:
        """Read how far the task has come."""
        jobs, job = self.session.watch.jobs, self.session.plan.id
        [found] = await retry_until_up(jobs.store.commands, lambda: jobs.checkpoints(job, [self.name]))
        self.number = found.number
        return found

    def outputs(self, records: list[Record]) -> list[RecordChunk]:
        """Split records among the tasks of the operators that follow."""
        return [output for edge in self._edges for output in edge.split(records)]

    async def commit(self, commit: Commit) -> None:
        """Commit; waits while too much waits for one that follows.

        Raises:
            JobOver: the job has ended.
            FencedError: another attempt runs the task.
            JobFailedError: too many dead letters.
        """
        commit.number = self.number + 1
        commit.following = self._following
        while (outcome := await self._try(commit)) == "FULL":
            await self.session.watch.wait("@room", 0.25)
        if outcome == "OVER":
            raise JobOver
        if outcome == "FENCED":
            raise FencedError(f"another attempt runs {self.name}")
        self.number += 1
        if outcome == "DEAD":
            limit = self.session.plan.settings.dead_letter_limit
            raise JobFailedError(f"more than {limit} dead letters (dead_letter_limit)")

    async def _try(self, commit: Commit) -> str:
        plan, jobs = self.session.plan, self.session.watch.jobs
        # Where the reply is lost, its number shows whether it was done.
        return await retry_until_up(
            jobs.store.commands, lambda: jobs.commit(
                plan.id, self._request, self._claim, commit,
                most_waiting=plan.settings.queue_size, most_dead=plan.settings.dead_letter_limit,
            )
        )  # fmt: skip

    async def run(self) -> AsyncIterator[dict[str, Any]]:
        """Work until the end; yields once something was committed, so that the attempt counts as fruitful.

        Raises:
            FencedError: another attempt runs the task.
            Exception: what the user's function raises, after the end of the job.
        """
        try:
            if (await self.checkpoint()).done:
                return
            first = self.number
            async with aclosing(self.rounds()) as rounds:
                async for _ in rounds:
                    if self.number == first + 1:
                        yield {"task": self.name, "from": first}
        except JobOver:
            return
        except FencedError:
            raise
        except Exception as exc:
            await self._fail(exc)
            raise
        finally:
            # Not awaited: the user's code may still run in this thread, and never return.
            self._threads.submit(self.close)
            self._threads.shutdown(wait=False)

    async def _fail(self, exc: Exception) -> None:
        job, jobs = self.session.plan.id, self.session.watch.jobs
        event("job.failed", job=job, operator=self.plan.name, error=exc)
        await retry_until_up(jobs.store.commands, lambda: jobs.end(job, JobState.FAILED, describe_error(exc)))

    def rounds(self) -> AsyncGenerator[None, None]:
        """One turn per commit."""
        raise NotImplementedError

    def close(self) -> None:
        """Run the user's ``close``, if that was not done."""
        raise NotImplementedError


class OperatorTask(TaskRunner):
    """A task that takes records."""

    _operator: Operator | None = None
    _closed = False

    def _make(self) -> Operator:
        ctx = self.session.task_context(self.plan.name, self.index, self.plan.parallelism)
        stage = self.session.stages[self.plan.name]
        operator = Operator(stage, ctx, self.session.plan.name, msgspec.msgpack.encode)
        operator.function.hook("setup")
        return operator

    async def rounds(self) -> AsyncGenerator[None, None]:
        """Take, handle, commit."""
        watch, job = self.session.watch, self.session.plan.id
        if watch.over:
            return
        self._operator = await self.in_thread(self._make)
        while not watch.over:
            news = watch.news(self.name)
            news.clear()
            entries, more = await retry_until_up(
                watch.jobs.store.commands, lambda: watch.jobs.input(job, self.name, _ENTRIES)
            )
            if entries:
                await self.commit(await self.in_thread(self._handle, entries))
                yield
            elif more:
                await watch.wait(self.name)
            else:
                await self.in_thread(self.close_function)
                await self.commit(Commit(task=self.name, number=0, done=True))
                yield
                return

    def _handle(self, entries: list[tuple[bytes, list[Any]]]) -> Commit:
        operator = self._operator
        assert operator is not None
        before, made = dict(operator.counts), []
        for entry, records in entries:
            for index, (key, value) in enumerate(records):
                operator.ctx.record_id = f"{self.session.plan.id}.{self.name}:{entry.decode()}:{index}"
                made += operator.handle(Record(key, value))
        dead, operator.dead = [list(letter) for letter in operator.dead], []
        collects = self.plan.kind == "collect"
        return Commit(
            task=self.name, number=0, counts={k: operator.counts[k] - before[k] for k in before},
            consumed=[entry for entry, _ in entries], consumed_records=sum(len(one) for _, one in entries),
            outputs=self.outputs(made), results=[record.value for record in made] if collects else [], dead=dead,
        )  # fmt: skip

    def close_function(self) -> None:
        """Run the user's ``close`` after the last record; what it raises fails the job."""
        self._closed = True
        assert self._operator is not None
        self._operator.function.hook("close")

    def close(self) -> None:
        """See :meth:`TaskRunner.close`."""
        if self._operator is not None and not self._closed:
            try:
                self.close_function()
            except BaseException as exc:  # noqa: BLE001 - the user's, and the job has ended or moved elsewhere
                event("job.hook_failed", job=self.session.plan.id, name=self.name, error=exc)
