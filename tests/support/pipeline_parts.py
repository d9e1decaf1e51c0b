"""Services and functions for tests of pipelines; in a module, so that they can travel to workers."""

from __future__ import annotations

import os
import sqlite3
import time
from asyncio import CancelledError
from pathlib import Path
from typing import Any

from dynamo_tasks.pipelines import BaseService, FlatMapFunction, MapFunction, SinkFunction, SourceFunction

__all__ = [
    "Ask",
    "AskAll",
    "AskOne",
    "Broken",
    "BrokenSink",
    "Count",
    "Counter",
    "Doubler",
    "Enrich",
    "Flaky",
    "Front",
    "HeldBack",
    "Marked",
    "MarkedTable",
    "Process",
    "Profile",
    "Table",
    "Ticker",
    "evens",
    "fails_on",
    "halves",
    "key_of",
    "leaves_on",
    "nested",
    "odd_things",
    "pause",
    "plus",
]


class Profile:
    """A plain class: no base, no decorator."""

    def __init__(self, score: float = 0.9):
        self.score = score
        assert self.ctx.name == "profile"  # type: ignore[attr-defined]  # it is there before __init__

    def process(self, user_id: str) -> dict[str, Any]:
        return {"user_id": user_id, "score": self.score}

    def lookup(self, user_id: str, *, suffix: str = "") -> str:
        return f"found {user_id}{suffix}"

    def broken(self, user_id: str) -> None:
        raise ValueError(f"no user {user_id}")

    def slow(self, seconds: float) -> str:
        time.sleep(seconds)
        return "late"

    def count(self, n: int) -> Any:
        yield from range(n)

    def leave(self, how: str) -> None:
        leaves_on(1, 1, how)

    async def later(self, user_id: str) -> str:
        return f"later {user_id}"


class Flaky(BaseService):
    """Fails until it was asked for the third time."""

    def __init__(self) -> None:
        self.calls = 0

    def process(self, value: int) -> int:
        self.calls += 1
        if self.calls < 3:
            raise ConnectionError(f"call {self.calls}")
        return value

    def asked(self) -> int:
        return self.calls


class Doubler(BaseService):
    """Many at once."""

    parallelism = 4

    def process(self, value: int) -> int:
        return 2 * value


class Front(BaseService):
    """A service that calls another one."""

    def process(self, user_id: str) -> str:
        return "via front: " + self.services.profile.lookup(user_id)


class Enrich(MapFunction):
    """Calls a service in three ways."""

    def execute(self, record: dict[str, Any]) -> dict[str, Any]:
        user = record["user_id"]
        return {
            **record, "profile": self.call_service("profile", user),
            "found": self.call_service("profile", user, method="lookup", suffix="!"),
            "again": self.services.profile.lookup(user),
        }  # fmt: skip


class AskAll(FlatMapFunction):
    """Hundreds of calls in flight from one operator."""

    def __init__(self, count: int) -> None:
        self.count = count

    def execute(self, record: int) -> list[int]:
        futures = [self.call_service_async("doubler", record + i) for i in range(self.count)]
        return [future.result() for future in futures]


class AskOne(MapFunction):
    """One call for each record."""

    def execute(self, record: int) -> int:
        return int(self.call_service("doubler", record, timeout=60))


class Ticker(SourceFunction):
    """Runs until it is stopped."""

    poll_interval = 0.005

    def __init__(self) -> None:
        self.count = 0

    def execute(self) -> int | None:
        self.count += 1
        return self.count if self.count % 2 else None


def plus(record: int, more: int = 1) -> int:
    return record + more


def pause(record: int, seconds: float) -> None:
    time.sleep(seconds)


def evens(record: int) -> bool:
    return record % 2 == 0


def halves(record: int) -> list[int]:
    return [record // 2, record - record // 2]


def key_of(record: list[Any]) -> Any:
    return record[0]


def fails_on(record: int, bad: int) -> int:
    if record == bad:
        raise ValueError(f"bad record {record}")
    return record


def leaves_on(record: int, bad: int, how: str) -> int:
    """Raises what is no ``Exception``."""
    if record == bad:
        raise {
            "SystemExit": SystemExit,
            "CancelledError": CancelledError,
            "KeyboardInterrupt": KeyboardInterrupt,
        }[how](bad)
    return record


def odd_things(record: int) -> Any:
    """What is JSON, and what is not."""
    return [record, {1, object()}, "\ud800", nested(100_000)][record - 1]


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


class Broken(BaseService):
    """Cannot be made, or not set up."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._reach("init")

    def _reach(self, here: str) -> None:
        if self.where == here:
            raise ValueError("no licence")

    def setup(self) -> None:
        self._reach("setup")

    def close(self) -> None:
        self._reach("close")


class SlowlyBroken(Broken):
    """It takes its time to find that it cannot be set up."""

    def setup(self) -> None:
        time.sleep(1.5)
        super().setup()


class BrokenSink(SinkFunction, Broken):
    """The same as a sink."""

    def setup(self) -> None:
        self._reach("setup")

    def close(self) -> None:
        self._reach("close")

    def execute(self, record: Any) -> None:
        pass


class HeldBack(MapFunction):
    """Every other task is slow: what keeps the order is the key alone."""

    def execute(self, record: list[Any]) -> list[Any]:
        if self.ctx.task_index % 2 == 0:
            time.sleep(0.001)
        return record


class Table(SinkFunction):
    """Writes each record under its id: a repeated write changes nothing. Every write is counted, too."""

    def __init__(self, path: str, pause: float = 0.0) -> None:
        self.path = path
        self.pause = pause

    def setup(self) -> None:
        self.table = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        self.table.execute("CREATE TABLE IF NOT EXISTS records (id TEXT PRIMARY KEY, value INTEGER)")
        self.table.execute("CREATE TABLE IF NOT EXISTS writes (id TEXT)")

    def execute(self, record: Any) -> None:
        time.sleep(self.pause)
        self.table.execute("BEGIN IMMEDIATE")
        self.table.execute("INSERT OR IGNORE INTO records VALUES (?, ?)", (self.record_id, record))
        self.table.execute("INSERT INTO writes VALUES (?)", (self.record_id,))
        self.table.execute("COMMIT")

    def close(self) -> None:
        self.table.close()


class MarkedTable(Table):
    """Leaves a file that is named like its process, too."""

    def __init__(self, path: str, folder: str) -> None:
        super().__init__(path, pause=0.001)
        self.folder = folder

    def setup(self) -> None:
        super().setup()
        (Path(self.folder) / str(os.getpid())).touch()


class Counter:
    """A plain object."""

    def __init__(self, first: int) -> None:
        self.value = first - 1

    def next(self) -> int:
        self.value += 1
        return self.value

    def refuse(self) -> None:
        raise ValueError("no")


class Count(SourceFunction):
    """Counts up to an end; goes on where it was."""

    def __init__(self, end: int) -> None:
        self.next = 0
        self.end = end

    def execute(self) -> int:
        if self.next == self.end:
            raise StopIteration
        self.next += 1
        time.sleep(0.001)
        return self.next - 1

    def position(self) -> int:
        return self.next

    def seek(self, position: int) -> None:
        self.next = position


class Marked(MapFunction):
    """Leaves a file that is named like its process."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def setup(self) -> None:
        (Path(self.folder) / str(os.getpid())).touch()

    def execute(self, record: int) -> int:
        time.sleep(0.002)
        return record + 1


class Process(BaseService):
    """Tells who it is, at once or later."""

    def __init__(self) -> None:
        self.calls = 0

    def process(self) -> int:
        return os.getpid()

    def later(self, file: str) -> int:
        """Waits as long as the file is there."""
        Path(file).with_suffix(".begun").touch()
        while Path(file).exists():
            time.sleep(0.01)
        return os.getpid()

    def nap(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    def endless(self) -> Any:
        while True:
            yield os.getpid()

    def broken(self) -> Any:
        yield 1
        raise ValueError("no more")


class Ask(MapFunction):
    """Puts the stream of an LLM together."""

    def execute(self, record: str) -> str:
        chunks = self.call_service("llm", record, max_tokens=len(record))
        return "".join(chunk["text"] for chunk in chunks)
