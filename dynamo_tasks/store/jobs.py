"""Jobs of pipelines: their state, the checkpoints of their tasks, and the records on their way.

Fields of a job (a hash): ``state``, ``name`` of its environment, ``plan`` JSON, ``tasks`` names of all tasks of its
operators, ``left`` how many of these have not ended, ``started`` and ``finished`` (ms), ``error``, ``service:<name>``
statistics of a service as JSON.

Fields of a task's checkpoint (a hash): ``number`` of its last commit, ``position`` of a source, ``open`` number of
tasks that may still send it records, ``waiting`` records in its input, ``in``, ``out``, ``skipped``, ``dead`` numbers
of records, ``time`` of the last commit (ms), ``done``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from dynamo_tasks.errors import ProtocolError, RequestNotFoundError
from dynamo_tasks.store.job_records import Checkpoint, Chunk, Commit, JobRecord
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.ledger.submission import NewRequest, submit_call, submitted
from dynamo_tasks.store.queue_keys import queue_keys
from dynamo_tasks.store.redis.containment import MALFORMED
from dynamo_tasks.store.redis.refusals import refusal
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.redis.wire import pack

__all__ = ["Jobs"]

_decode = msgspec.msgpack.Decoder().decode
_CONNECT_SECONDS = 5.0
"""Seconds that a command may wait for the connection."""


class Jobs:
    """The jobs of one namespace.

    Args:
        store: Redis.
        namespace: Where they run.
    """

    def __init__(self, store: Store, namespace: str):
        self.store = store
        self.namespace = namespace
        self._keys = store.keys(namespace)

    async def start(
        self, job_id: str, name: str, plan: bytes, producers: dict[str, int], requests: list[NewRequest]
    ) -> None:
        """Begin a job and queue what runs it, all in one step. Safe to repeat.

        Args:
            job_id: Its id.
            name: Of its environment.
            plan: What its workers read, JSON.
            producers: Each task, and how many tasks send it records.
            requests: One per task and hosted service.
        """
        keys = self._keys
        pairs = [part for pair in producers.items() for part in pair]
        calls = [
            script("job_start").command(
                [keys.job(job_id), keys.jobs], *pairs, base=keys.base, id=job_id,
                namespaces=self.store.keys.namespaces, namespace=self.namespace, name=name, plan=plan,
            )
        ]  # fmt: skip
        for one in requests:
            names, more, named = submit_call(keys, one)
            calls.append(script("submit").command(names, *more, **named))
        wire = await self.store.commands.wire(_CONNECT_SECONDS)
        # EVALSHA inside of MULTI cannot fall back to EVAL.
        for needed in ("job_start", "submit"):
            await wire.execute("SCRIPT", "LOAD", script(needed).source)
        replies = await wire.transaction([pack(tuple(call)) for call in calls])
        for reply in replies:
            if isinstance(reply, Exception):
                raise refusal(str(reply))
        for one, reply in zip(requests, replies[1:], strict=True):
            submitted(one, reply)

    async def commit(
        self, job_id: str, request_id: str, claim: tuple[int, int], commit: Commit, *, most_waiting: int, most_dead: int
    ) -> str:  # fmt: skip
        """Move a task's checkpoint on, with its output. Safe to repeat.

        Args:
            job_id: The job.
            request_id: The request that runs the task.
            claim: Lease and epoch of its attempt.
            commit: What was done.
            most_waiting: Records that may wait for one task.
            most_dead: Dead letters that the job may have.

        Returns:
            ``OK``, ``FENCED``, ``OVER``, ``FULL`` or ``DEAD``.
        """
        keys = self._keys
        names = [
            keys.record(request_id), keys.job(job_id), keys.job_task(job_id, commit.task),
            keys.job_input(job_id, commit.task),
        ]  # fmt: skip
        reply = await script("job_commit").run(
            self.store.commands, names, *commit.lists(), base=keys.base, lease=f"{claim[0]:x}", epoch=claim[1],
            channel=keys.job_channel(job_id), most_waiting=most_waiting, most_dead=most_dead, **commit.arguments(),
        )  # fmt: skip
        return str(reply.decode())

    async def end(self, job_id: str, state: str, error: str = "") -> str:
        """Stop a job, or end it as ``STOPPED`` or ``FAILED``. Returns ``OK``, ``OVER`` or ``GONE``."""
        keys = self._keys
        reply = await script("job_end").run(
            self.store.commands,
            [keys.job(job_id)],
            base=keys.base,
            channel=keys.job_channel(job_id),
            new_state=state,
            error=error,
        )
        return str(reply.decode())

    async def get(self, job_id: str) -> JobRecord:
        """A job.

        Raises:
            RequestNotFoundError: there is none of that id.
            ProtocolError: what stands there is none.
        """
        raw = await self.store.commands.execute("HGETALL", self._keys.job(job_id))
        if not raw:
            raise RequestNotFoundError(f"no job {job_id!r} is known in namespace {self.namespace!r}")
        try:
            return _record(job_id, self.namespace, dict(zip(raw[::2], raw[1::2], strict=True)))
        except MALFORMED as exc:
            raise ProtocolError(f"job {job_id!r} cannot be read: {exc}") from exc

    async def ids(self) -> list[str]:
        """All jobs that are known, newest first."""
        found = await self.store.commands.execute("ZRANGE", self._keys.jobs, 0, -1, "REV")
        return [job_id.decode(errors="replace") for job_id in found]

    async def state(self, job_id: str) -> str:
        """Its state; ``GONE`` where there is no such job."""
        found = await self.store.commands.execute("HGET", self._keys.job(job_id), "state")
        return found.decode() if found else "GONE"

    async def checkpoints(self, job_id: str, tasks: Iterable[str]) -> list[Checkpoint]:
        """Read the checkpoints of tasks, in the given order."""
        wire = await self.store.commands.wire(_CONNECT_SECONDS)
        commands = [["HGETALL", self._keys.job_task(job_id, task)] for task in tasks]
        rows = await wire.ask(commands) if commands else []
        return [Checkpoint.of(dict(zip(row[::2], row[1::2], strict=True))) for row in rows]

    async def request_states(self, request_ids: Iterable[str]) -> list[tuple[str, str]]:
        """State and error (JSON) of the requests that run a job's tasks and services."""
        wire = await self.store.commands.wire(_CONNECT_SECONDS)
        commands = [["HMGET", self._keys.record(one), Field.STATE, Field.ERROR] for one in request_ids]
        rows = await wire.ask(commands) if commands else []
        return [((state or b"").decode(), (error or b"").decode()) for state, error in rows]

    async def input(self, job_id: str, task: str, most: int) -> tuple[list[tuple[bytes, Chunk]], bool]:
        """The chunks that wait for a task, oldest first, with their ids; and whether more can come."""
        wire = await self.store.commands.wire(_CONNECT_SECONDS)
        # In this order: once nobody can send any more, what is read after that is all.
        open_, entries = await wire.ask(
            [
                ["HGET", self._keys.job_task(job_id, task), "open"],
                ["XRANGE", self._keys.job_input(job_id, task), "-", "+", "COUNT", most],
            ]
        )
        return [(entry, _decode(fields[1])) for entry, fields in entries], int(open_ or 0) > 0

    async def note_service(self, job_id: str, service: str, numbers: dict[str, Any]) -> None:
        """Keep the statistics of a service with its job, unless that is gone."""
        await script("job_note").run(
            self.store.commands,
            [self._keys.job(job_id)],
            base=self._keys.base,
            service=service,
            statistics=msgspec.json.encode(numbers),
            channel=self._keys.job_channel(job_id),
        )

    async def service_notes(self, job_id: str, services: list[str]) -> list[dict[str, Any]]:
        """The statistics of services, as last noted; of those that have begun."""
        if not services:
            return []
        fields = [f"service:{name}" for name in services]
        found = await self.store.commands.execute("HMGET", self._keys.job(job_id), *fields)
        return [msgspec.json.decode(value) for value in found if value]

    async def forget_queue(self, queue: str) -> None:
        """Delete a queue that nobody serves any more, and what waits in it."""
        await self.store.commands.execute("UNLINK", *queue_keys(self.store.prefix, queue))

    async def results(self, job_id: str, first: int, most: int = 1000) -> list[Any]:
        """Read at most ``most`` collected records, from position ``first`` on."""
        found = await self.store.commands.execute(
            "LRANGE", self._keys.job_results(job_id), first, first + most - 1
        )
        return [_decode(value) for value in found]

    async def dead_letters(self, job_id: str) -> list[Any]:
        """Its dead letters."""
        found = await self.store.commands.execute("LRANGE", self._keys.job_dead(job_id), 0, -1)
        return [_decode(value) for value in found]

    def channel(self, job_id: str) -> str:
        """Name the channel on which its tasks wake each other up.

        Messages: a task's name, ``@room``, ``@results`` or ``@state``.
        """
        return self._keys.job_channel(job_id)


def _record(job_id: str, namespace: str, row: dict[bytes, bytes]) -> JobRecord:
    return JobRecord(
        job_id, namespace, row[b"name"].decode(), row[b"state"].decode(), row[b"plan"], int(row[b"started"]) / 1000,
        int(row[b"finished"]) / 1000 if b"finished" in row else None, row.get(b"error", b"").decode() or None,
    )  # fmt: skip
