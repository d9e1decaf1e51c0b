"""An observer that was held up does not take for dead whom it could not see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from dynamo_tasks.runtime.supervision import recoverer
from dynamo_tasks.runtime.supervision.recoverer import Recoverer
from tests.support.streams import eventually

TTL = 0.2


class FrozenServer:
    """Shows two instances whose counters stand still; answers one poll late."""

    def __init__(self) -> None:
        self.polls = 0
        self.late_by = 0.0
        self.late_at = 0.0
        self.taken_over: list[tuple[int, float]] = []

    async def owners(self, namespace: str) -> list[int]:
        return [1, 2]

    async def sightings(self, namespace: str, leases: list[int]) -> list[tuple[str, bool]]:
        self.polls += 1
        if self.late_by:
            await asyncio.sleep(self.late_by)
            self.late_by, self.late_at = 0.0, time.monotonic()
        return [("7", True)] * len(leases)

    async def take_over(self, namespace: str, lease: int, observer: str) -> None:
        self.taken_over.append((lease, time.monotonic()))

    async def lost_messages(self, namespace: str, suspects: set[str]) -> tuple[set[str], int]:
        return set(), 0


class Restarted:
    """A server that was restarted; its only namespace is found after that."""

    def __init__(self) -> None:
        self.run_id = "before"
        self.known: list[str] = []
        self.commands = self
        self.reconnects = 0
        self.asked = 0

    async def namespaces(self) -> list[str]:
        self.asked += 1
        return self.known


class Absent(FrozenServer):
    """Nobody but one instance has come back yet."""

    async def sightings(self, namespace: str, leases: list[int]) -> list[tuple[str, bool]]:
        self.polls += 1
        return [("7", False), (str(self.polls), True)]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Any], AbstractAsyncContextManager[None]]:
    """A recoverer that polls all the time, of a store whose instances are what this server shows."""
    for name in ("_EVERY", "_NAMESPACES_EVERY"):
        monkeypatch.setattr(recoverer, name, 0.001)

    @asynccontextmanager
    async def watch(store: Any, server: Any, **options: bool) -> AsyncIterator[None]:
        monkeypatch.setattr(recoverer, "Recovery", lambda store, *, cuts: server)
        watcher = Recoverer(store, **options)
        await watcher.start()
        yield
        await watcher.stop()

    return watch


def test_nobody_is_dead_in_a_namespace_that_is_found_behind_a_restart(watched: Any) -> None:
    server, store = Absent(), Restarted()

    async def watch() -> None:
        async with watched(store, server):
            await eventually(lambda: store.asked)
            store.run_id, store.reconnects = "after", 1
            before = store.asked
            await eventually(lambda: store.asked > before + 1)
            store.known = ["ns"]
            await eventually(lambda: server.polls > 4)

    asyncio.run(watch())
    assert server.taken_over == []


@pytest.mark.parametrize("stalled", ["server", "observer"])
def test_nobody_is_dead_after_a_stall(monkeypatch: pytest.MonkeyPatch, watched: Any, stalled: str) -> None:
    monkeypatch.setattr(recoverer, "_STALL", TTL / 2)
    monkeypatch.setattr(recoverer, "LEASE_TTL", TTL)
    server, store = FrozenServer(), Restarted()
    store.known = ["ns"]

    async def watch() -> None:
        async with watched(store, server):
            await eventually(lambda: server.polls)
            if stalled == "server":
                server.late_by = 1.5 * TTL
                await eventually(lambda: server.late_at)
                over = server.late_at
            else:
                time.sleep(1.5 * TTL)  # noqa: ASYNC251 - that is the stall
                over = time.monotonic()
            await eventually(lambda: len(server.taken_over) >= 2, 100 * TTL)
        assert [lease for lease, _ in server.taken_over[:2]] == [1, 2]
        assert server.taken_over[0][1] - over >= TTL, (
            "dead is who stands still for so long while it is watched"
        )

    asyncio.run(watch())


@pytest.mark.parametrize("cuts", [True, False])
def test_who_may_not_cut_leaves_the_frozen_to_those_who_may(
    monkeypatch: pytest.MonkeyPatch, watched: Any, cuts: bool
) -> None:
    """Else what it requeues is handed to the frozen process, whose pop waits at the server yet."""
    monkeypatch.setattr(recoverer, "LEASE_TTL", TTL)
    server, store = FrozenServer(), Restarted()
    store.known = ["ns"]

    async def watch() -> float:
        began = time.monotonic()
        async with watched(store, server, cuts=cuts):
            await eventually(lambda: server.taken_over)
        return server.taken_over[0][1] - began

    waited = asyncio.run(watch())
    assert waited >= TTL + (0.0 if cuts else recoverer.LEFT_TO_WORKERS)
