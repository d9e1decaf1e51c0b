"""A task of a source in a worker: reads it in a thread, commits chunks with the position behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from dynamo_tasks.observe.log import event
from dynamo_tasks.pipelines.calls.messages import as_exception
from dynamo_tasks.pipelines.calls.queues import ChannelClosed, RecordChannel
from dynamo_tasks.pipelines.celery.operator_task import CHUNK, TaskRunner
from dynamo_tasks.pipelines.graph.functions import Bound, SourceFunction
from dynamo_tasks.pipelines.graph.operators import Record, plain_record
from dynamo_tasks.store.job_records import Commit
from dynamo_tasks.store.redis.retry import retry_until_up

__all__ = ["SourceTask"]


class _Position(msgspec.Struct, frozen=True):
    """Behind the last record that was committed: how many there were, and what the source says."""

    records: int = 0
    where: Any = None


class _Read(NamedTuple):
    value: Any
    where: Any


class SourceTask(TaskRunner):
    """A task that makes records.

    A batch is read again by the worker that takes it over, and what was committed is passed over, so it must give
    the same records again. A ``SourceFunction`` is asked to ``seek`` its position.
    """

    _function: Bound | None = None
    _closed = False
    _error: Exception | None = None

    async def rounds(self) -> AsyncGenerator[None, None]:
        """Read, commit."""
        loop = asyncio.get_running_loop()
        self._channel: RecordChannel[_Read] = RecordChannel(2 * CHUNK)
        self._ready = asyncio.Event()
        await self._wait_for_services()
        found = await self.checkpoint()
        position = msgspec.json.decode(found.position, type=_Position) if found.position else _Position()
        self._threads.submit(self._pump, position, loop)
        watch, more = self.session.watch, True
        try:
            while more and not watch.over:
                await self._wait()
                items, more = self._channel.take_nowait()
                more = more and not watch.stopping
                if self._error is not None:
                    raise self._error
                for at in range(0, len(items), CHUNK):
                    position = await self._commit(items[at : at + CHUNK], position)
                    yield
            await self.commit(Commit(task=self.name, number=0, position=_json(position), done=True))
            yield
        finally:
            self._channel.close()

    async def _wait_for_services(self) -> None:
        """Wait until each service has begun: one that cannot be made fails a job before its first record."""
        plan, watch = self.session.plan, self.session.watch
        names = [one.name for one in plan.hosted]
        while not watch.stopping:
            begun = await retry_until_up(
                watch.jobs.store.commands, lambda: watch.jobs.service_notes(plan.id, names)
            )
            if len(begun) == len(names):
                return
            await watch.wait("@state")

    async def _wait(self) -> None:
        """Wait for records, for the end of the source, or for that of the job."""
        events = (self._ready, self.session.watch.stop_asked)
        waits = [asyncio.ensure_future(one.wait()) for one in events]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        self._ready.clear()

    async def _commit(self, items: list[_Read], position: _Position) -> _Position:
        position = _Position(position.records + len(items), items[-1].where)
        records = [Record(None, item.value) for item in items]
        await self.commit(
            Commit(
                task=self.name, number=0, position=_json(position), counts={"out": len(items)},
                outputs=self.outputs(records),
            )
        )  # fmt: skip
        return position

    # -- in the task's thread -----------------------------------------------------------------------

    def _pump(self, position: _Position, loop: asyncio.AbstractEventLoop) -> None:
        try:
            for read in self._read(position):
                value = plain_record(read.value, msgspec.msgpack.encode)
                self._channel.put(_Read(value, read.where))
                if len(self._channel) == 1:
                    loop.call_soon_threadsafe(self._ready.set)
            self._closed = True
            self._hook("close")
        except ChannelClosed:
            pass
        except BaseException as exc:  # noqa: BLE001 - the user's: it fails the job
            self._error = as_exception(exc)
        self._channel.done()
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._ready.set)

    def _read(self, position: _Position) -> Iterator[_Read]:
        ctx = self.session.task_context(self.plan.name, self.index, self.plan.parallelism)
        self._function = self.session.stages[self.plan.name].function.make(ctx)
        self._hook("setup")
        owner = self._function.owner
        if isinstance(owner, SourceFunction):
            return self._polled(owner, position)
        skipped = position.records if self.plan.kind == "batch" else 0
        return (_Read(value, None) for value in islice(self._function.batch(), skipped, None))

    def _polled(self, source: SourceFunction, position: _Position) -> Iterator[_Read]:
        if position.where is not None:
            source.seek(position.where)
        stopped = self.session.watch
        while not stopped.stopping:
            try:
                value = source.execute()
            except StopIteration:
                return
            if value is not None:
                yield _Read(value, source.position())
            else:
                self._channel.pause(source.poll_interval)

    def _hook(self, name: str) -> None:
        if self._function is not None:
            self._function.hook(name)

    def close(self) -> None:
        """See :meth:`TaskRunner.close`."""
        if not self._closed:
            self._closed = True
            try:
                self._hook("close")
            except BaseException as exc:  # noqa: BLE001 - the user's, and the job has ended or moved elsewhere
                event("job.hook_failed", job=self.session.plan.id, name=self.name, error=exc)


def _json(position: _Position) -> bytes:
    return msgspec.json.encode(position)
