"""An observer that was held up does not take for dead whom it could not see."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dynamo_tasks.runtime import recoverer
from dynamo_tasks.runtime.detector import Detector
from dynamo_tasks.runtime.recoverer import Recoverer

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


@pytest.mark.parametrize("stalled", ["server", "observer"])
def test_nobody_is_dead_after_a_stall(monkeypatch: pytest.MonkeyPatch, stalled: str) -> None:
    monkeypatch.setattr(recoverer, "_STALL", TTL / 2)
    server: Any = FrozenServer()

    async def watch() -> None:
        watcher = Recoverer(None)  # type: ignore[arg-type]
        watcher._recovery = server
        detector = Detector(ttl=TTL)
        await watcher._watch("ns", detector)
        if stalled == "server":
            server.late_by = 1.5 * TTL
        else:
            await asyncio.sleep(1.5 * TTL)
        await watcher._watch("ns", detector)
        assert server.taken_over == []
        until = asyncio.get_running_loop().time() + 2 * TTL
        while not server.taken_over and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(TTL / 10)
            await watcher._watch("ns", detector)
        assert server.taken_over == [1, 2], "who stands still for a lease's time while it is watched is dead"

    asyncio.run(watch())
