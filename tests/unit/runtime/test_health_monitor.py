"""The monitor of an instance's health, by itself."""

from __future__ import annotations

import asyncio

from dynamo_tasks.runtime.supervision.health import HealthMonitor, HealthSettings
from dynamo_tasks.sdk.hooks import Hook


def test_an_instance_that_is_dead_and_suspected_again_is_reported_once() -> None:
    deaths: list[str] = []

    async def no(hook: Hook) -> bool:
        return False

    async def heed(reason: str) -> None:
        """Nothing follows from it here."""

    async def main() -> None:
        monitor = HealthMonitor(
            HealthSettings(), no, list, busy=lambda: False, on_result=heed, on_dead=deaths.append
        )
        monitor.suspect()
        await monitor.check()
        assert deaths == ["liveness: no"]
        # Each of its requests that run reports the dead engine for itself.
        monitor.suspect()
        await monitor.check()

    asyncio.run(main())
    assert deaths == ["liveness: no"]
