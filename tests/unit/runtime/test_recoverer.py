"""An observer that was held up does not take for dead whom it could not see."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dynamo_tasks.runtime.supervision import recoverer
from dynamo_tasks.runtime.supervision.detector import Detector
from dynamo_tasks.runtime.supervision.recoverer import Recoverer

TTL = 0.2


class FrozenServer:
    """Shows two instances whose counters stand still; answers one poll late."""

    def __init__(self) -> None:
        self.late_by = 0.0
        self.taken_over: list[int] = []

    async def owners(self, namespace: str) -> list[int]:
        return [1, 2]

    async def sightings(self, namespace: str, leases: list[int]) -> list[tuple[str, bool]]:
        await asyncio.sleep(self.late_by)
        self.late_by = 0.0
        return [("7", True)] * len(leases)

    async def take_over(self, namespace: str, lease: int, observer: str) -> None:
        self.taken_over.append(lease)


class Restarted:
    """A server that was restarted; its only namespace is found after that."""

    def __init__(self) -> None:
        self.run_id = "before"
        self.known: list[str] = []
        self.commands = self
        self.reconnects = 0

    async def namespaces(self) -> list[str]:
        return self.known


class Absent(FrozenServer):
    """Nobody but one instance has come back yet."""

    def __init__(self) -> None:
        super().__init__()
        self.counter = 0

    async def sightings(self, namespace: str, leases: list[int]) -> list[tuple[str, bool]]:
        self.counter += 1
        return [("7", False), (str(self.counter), True)]

    async def lost_messages(self, namespace: str, suspects: set[str]) -> tuple[set[str], int]:
        return set(), 0


def test_nobody_is_dead_in_a_namespace_that_is_found_behind_a_restart() -> None:
    server: Any = Absent()
    store: Any = Restarted()

    async def watch() -> None:
        watcher = Recoverer(store)
        watcher._recovery = server
        loop = asyncio.get_running_loop()
        await watcher._poll(loop.time())
        store.run_id, store.reconnects = "after", 1
        await watcher._poll(loop.time())
        store.known = ["ns"]
        watcher._namespaces_at = 0.0
        for _ in range(4):
            await watcher._poll(loop.time())

    asyncio.run(watch())
    assert server.counter == 4
    assert server.taken_over == []


@pytest.mark.parametrize("stalled", ["server", "observer"])
def test_nobody_is_dead_after_a_stall(monkeypatch: pytest.MonkeyPatch, stalled: str) -> None:
    monkeypatch.setattr(recoverer, "_STALL", TTL / 2)
    server: Any = FrozenServer()

    async def watch() -> None:
        store: Any = Restarted()
        watcher = Recoverer(store)
        watcher._recovery = server
        detector = Detector(ttl=TTL)
        await watcher._watch("ns", detector)
        if stalled == "server":
            server.late_by = 1.5 * TTL
        else:
            await asyncio.sleep(1.5 * TTL)
        await watcher._watch("ns", detector)
        assert server.taken_over == []
        until = asyncio.get_running_loop().time() + 100 * TTL
        while not server.taken_over and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(TTL / 10)
            await watcher._watch("ns", detector)
        assert server.taken_over == [1, 2], "who stands still for a lease's time while it is watched is dead"

    asyncio.run(watch())
