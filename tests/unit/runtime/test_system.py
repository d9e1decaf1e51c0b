"""The system port answers whatever the event loop does."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request

import pytest

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.runtime.supervision.system import SystemServer, system_port


def fetch(server: SystemServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.read().decode()


async def get(server: SystemServer, path: str) -> tuple[int, str]:
    return await asyncio.to_thread(fetch, server, path)


def test_metrics_live_and_health() -> None:
    async def main() -> None:
        why = ["no reason", ""]
        server = SystemServer(0, lambda: why[0], host="127.0.0.1")
        await server.start()
        assert server.port
        status, text = await get(server, "/metrics")
        assert status == 200
        assert "# TYPE dynamo_tasks_requests_submitted_total counter" in text
        assert await get(server, "/live?probe=1") == (200, '{"status": "alive"}')
        assert await get(server, "/health") == (503, '{"status": "unhealthy", "reason": "no reason"}')
        why.pop(0)
        assert await get(server, "/health") == (200, '{"status": "healthy"}')
        assert (await get(server, "/else"))[0] == 404
        await server.stop()
        await server.stop()
        with pytest.raises(urllib.error.URLError):
            await get(server, "/live")

    asyncio.run(main())


def test_a_blocked_loop_is_not_live_and_its_metrics_can_be_read() -> None:
    async def main() -> None:
        server = SystemServer(0, lambda: "", max_lag=0.1, host="127.0.0.1")
        await server.start()
        asked = asyncio.get_running_loop().run_in_executor(None, probe, server)
        # Blocks the loop, until the probe has seen what it wants to see.
        deadline = time.monotonic() + 20
        while not asked.done() and not seen and time.monotonic() < deadline:
            time.sleep(0.01)  # noqa: ASYNC251 - that is the fault
        await asked
        await server.stop()

    seen: list[tuple[int, str]] = []

    def probe(server: SystemServer) -> None:
        deadline = time.monotonic() + 20
        while (answer := fetch(server, "/live"))[0] != 503 and time.monotonic() < deadline:
            time.sleep(0.02)
        health, metrics = fetch(server, "/health"), fetch(server, "/metrics")
        seen.extend([answer, health, metrics])

    asyncio.run(main())
    (live, text), health, metrics = seen
    assert (live, json.loads(text)["status"]) == (503, "blocked")
    assert "the event loop has been blocked for" in text
    assert (health[0], metrics[0]) == (503, 200)


def test_a_port_that_is_taken_says_what_to_do() -> None:
    async def main() -> None:
        first = SystemServer(0, lambda: "", host="127.0.0.1")
        await first.start()
        with pytest.raises(ConfigError, match=r"DYNAMO_SYSTEM_PORT=0 = any free one"):
            await SystemServer(first.port, lambda: "", host="127.0.0.1").start()
        await first.stop()

    asyncio.run(main())


def test_a_setting_comes_before_the_environment() -> None:
    assert system_port(None, {}) is None
    assert system_port(None, {"DYNAMO_SYSTEM_PORT": "9100"}) == 9100
    assert system_port(0, {"DYNAMO_SYSTEM_PORT": "9100"}) == 0
    for wrong in ("x", "-1", "65536"):
        with pytest.raises(ConfigError, match="must be a port"):
            system_port(None, {"DYNAMO_SYSTEM_PORT": wrong})
