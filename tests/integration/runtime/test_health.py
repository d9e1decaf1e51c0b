"""An instance's life: states, checks, leaving and coming back, and how it ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks import DistributedRuntime
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.runtime import Client
from dynamo_tasks.runtime.hosting.lifecycle import InstanceState, Lifecycle
from dynamo_tasks.runtime.supervision.health import HealthSettings
from tests.integration.runtime.conftest import OWN, Session, sent
from tests.support.processes import Worker
from tests.support.server import RedisServer
from tests.support.streams import eventually

Run = Callable[[Session], Any]


def _worker(server: RedisServer, namespace: str, folder: Path, wait: bool = True, **env: str) -> Worker:
    return Worker(
        server.url, service=f"{OWN}:Patient", env={"DYNAMO_NAMESPACE": namespace, **env}, name=namespace,
        settings=(f"Patient.folder={folder}",), wait=wait,
    )  # fmt: skip


async def _client(runtime: DistributedRuntime, namespace: str) -> Client:
    client = await runtime.namespace(namespace).component("Patient").endpoint("work").client(annotated=False)
    await client.wait_for_instances(1, timeout=30)
    return client


def _states(worker: Worker) -> list[str]:
    lines = [line for line in worker.output.splitlines() if "instance.state " in line]
    return [line.split("new=")[1].split()[0] for line in lines]


def test_an_unhealthy_instance_takes_no_work_and_comes_back(
    with_runtime: Run, redis_server: RedisServer, tmp_path: Path
) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        client = await _client(runtime, "own-health")
        for trouble, said in [
            ("unready", "readiness: no"),
            ("mute", "canary of work"),
            ("lag", "was blocked"),
        ]:
            (tmp_path / trouble).touch()
            await eventually(lambda: not client.instance_ids())
            call = client.generate({"n": 2})
            result = await sent(runtime, call)
            # A busy machine may have blocked its loop before: then that is why it has gone, and this comes next.
            await eventually(lambda said=said: said in worker.output)
            if trouble != "lag":
                await asyncio.sleep(0.1)
                assert (await runtime.client.ledger.get(call.id)).state == "QUEUED"
                (tmp_path / trouble).unlink()
            await client.wait_for_instances(1, timeout=30)
            assert await asyncio.wait_for(result, 10) == [0, 1]
        assert len(client.instance_ids()) == 1

    with _worker(redis_server, "own-health", tmp_path) as worker:
        with_runtime(session)
        assert worker.terminate() == 0
        states = _states(worker)
    assert states[:4] == ["Registered", "Running", "Healthy", "Running"]
    assert states[-3:] == ["Healthy", "Stopping", "Deregistered"]


def test_an_instance_that_is_not_alive_hands_over_and_ends(
    with_runtime: Run, redis_server: RedisServer, tmp_path: Path
) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        client = await _client(runtime, "own-dead")
        call = client.generate({"n": 40, "pause": 0.02})
        values = [await anext(call) for _ in range(3)]
        (tmp_path / "dead").touch()
        await asyncio.to_thread(worker.popen.wait, 10)
        (tmp_path / "dead").unlink()
        with _worker(redis_server, "own-dead", tmp_path, wait=False):
            values += [value async for value in call]
        assert values == list(range(40))

    with _worker(redis_server, "own-dead", tmp_path) as worker:
        with_runtime(session)
        assert "instance.dead" in worker.output


def test_what_a_dead_engine_ran_goes_on_elsewhere(
    with_runtime: Run, redis_server: RedisServer, tmp_path: Path
) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        client = await _client(runtime, "own-engine")
        call = client.generate({"n": 40, "pause": 0.02})
        values = [await anext(call) for _ in range(3)]
        (tmp_path / "broken").touch()
        await asyncio.to_thread(worker.popen.wait, 10)
        (tmp_path / "broken").unlink()
        with _worker(redis_server, "own-engine", tmp_path, wait=False):
            values += [value async for value in call]
        assert values == list(range(40))

    with _worker(redis_server, "own-engine", tmp_path) as worker:
        with_runtime(session)
        assert worker.popen.returncode != 0
        assert "instance.dead" in worker.output


def test_a_false_alarm_costs_an_attempt_and_no_more(
    with_runtime: Run, redis_server: RedisServer, tmp_path: Path
) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        client = await _client(runtime, "own-alarm")
        call = client.generate({"n": 20, "pause": 0.02})
        values = [await anext(call) for _ in range(3)]
        (tmp_path / "alarm").touch()
        async with asyncio.timeout(10):
            values += [value async for value in call]
        assert values == list(range(20))
        assert (await runtime.client.ledger.get(call.id)).attempts == 2
        assert client.instance_ids()

    with _worker(redis_server, "own-alarm", tmp_path) as worker:
        with_runtime(session)
        assert "instance.dead" not in worker.output


def test_after_the_grace_period_what_runs_is_handed_over(
    with_runtime: Run, redis_server: RedisServer, tmp_path: Path
) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        client = await _client(runtime, "own-grace")
        short, long = client.generate({"n": 10, "pause": 0.02}), client.generate({"n": 80, "pause": 0.02})
        values = [[await anext(call)] for call in (short, long)]
        first.signal(signal.SIGTERM)
        await eventually(lambda: not client.instance_ids())
        values[0] += [value async for value in short]
        assert await asyncio.to_thread(first.popen.wait, 10) == 0
        with _worker(redis_server, "own-grace", tmp_path, wait=False):
            values[1] += [value async for value in long]
        assert values == [list(range(10)), list(range(80))]

    with _worker(redis_server, "own-grace", tmp_path, DYNAMO_GRACE_PERIOD="0.5") as first:
        with_runtime(session)


def test_only_the_transitions_of_the_diagram_exist() -> None:
    lifecycle = Lifecycle("Worker", 1)
    for state in ("Registered", "Running", "Healthy", "Running", "Running", "Stopping", "Deregistered"):
        lifecycle.advance(InstanceState(state))
    with pytest.raises(ConfigError, match="is Deregistered; it cannot become Running"):
        lifecycle.advance(InstanceState.RUNNING)


def test_health_settings_are_checked() -> None:
    class Own:
        health_check = {"interval": "2", "canary_after": 30}  # noqa: RUF012

    assert HealthSettings.of(Own) == HealthSettings(interval=2.0, canary_after=30.0)
    Own.health_check = {"intervall": 1}
    with pytest.raises(ConfigError, match="intervall"):
        HealthSettings.of(Own)
