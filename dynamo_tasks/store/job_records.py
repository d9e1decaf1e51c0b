"""Records of jobs, checkpoints of their tasks, and commits of a task; see :mod:`dynamo_tasks.store.jobs`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from dynamo_tasks.store.ledger.scripts import Argument

__all__ = ["COUNTERS", "Checkpoint", "Commit", "JobRecord", "RecordChunk"]

COUNTERS = ("in", "out", "skipped", "dead")
_encode = msgspec.msgpack.Encoder().encode
Chunk = list[Any]


@dataclass(frozen=True)
class JobRecord:
    """A job. Times are Unix seconds."""

    id: str
    namespace: str
    name: str
    state: str
    plan: bytes
    started: float
    finished: float | None
    error: str | None


@dataclass(frozen=True)
class Checkpoint:
    """The progress of a task, as of its last commit.

    Attributes:
        number: Of its last commit; 0 = none.
        position: Of a source.
        open: Tasks that may still send it records.
        waiting: Records in its input.
        counts: By name, see :data:`COUNTERS`.
        done: Whether it has ended.
    """

    number: int
    position: bytes
    open: int
    waiting: int
    counts: dict[str, int]
    done: bool

    @classmethod
    def of(cls, row: dict[bytes, bytes]) -> Checkpoint:
        """Read the fields of its hash."""
        counts = {name: int(row.get(name.encode(), 0)) for name in COUNTERS}
        return cls(
            int(row.get(b"number", 0)), row.get(b"position", b""), int(row.get(b"open", 0)),
            int(row.get(b"waiting", 0)), counts, b"done" in row,
        )  # fmt: skip


@dataclass(frozen=True)
class RecordChunk:
    """A chunk of records for one task."""

    task: str
    records: Chunk


@dataclass(kw_only=True)
class Commit:
    """The work that a task has done since its last commit; see ``lua/job_commit.lua``.

    Attributes:
        task: Its name.
        number: One more than the last commit's.
        position: Of a source.
        counts: To add to its counters.
        consumed: Ids of its input that is handled.
        consumed_records: Records in these.
        outputs: For those that follow.
        following: All tasks that follow; notified when this one has ended.
        results: Records for ``collect``.
        dead: Dead letters.
        done: Whether it has ended.
    """

    task: str
    number: int
    position: bytes = b""
    counts: dict[str, int] = field(default_factory=dict)
    consumed: list[bytes] = field(default_factory=list)
    consumed_records: int = 0
    outputs: list[RecordChunk] = field(default_factory=list)
    following: list[str] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    dead: list[Any] = field(default_factory=list)
    done: bool = False

    def arguments(self) -> dict[str, Argument]:
        """Named arguments of the script, as far as they are of the commit."""
        counts = {name: self.counts.get(name, 0) for name in COUNTERS}
        return {
            "task": self.task, "number": self.number, "position": self.position, "records_in": counts["in"],
            "records_out": counts["out"], "skipped": counts["skipped"], "dead": counts["dead"],
            "done": int(self.done), "consumed": self.consumed_records,
        }  # fmt: skip

    def lists(self) -> list[Argument]:
        """Arguments that follow them: five lists, each after its length."""
        args: list[Argument] = [len(self.consumed), *self.consumed, len(self.outputs)]
        for one in self.outputs:
            args += [one.task, len(one.records), _encode(one.records)]
        args += [len(self.following), *self.following]
        args += [len(self.results), *map(_encode, self.results)]
        return [*args, len(self.dead), *map(_encode, self.dead)]
