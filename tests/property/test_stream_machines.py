"""Fence and demultiplexer under every order of faults: on a simulated server, and with the real scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.property.stream_machine import StreamMachine
from tests.property.stream_servers import RealServer, Server, SimulatedServer
from tests.support.server import RedisServer

_KNOWN: dict[str, Any] = {
    "deadline": None, "database": None, "derandomize": True, "suppress_health_check": list(HealthCheck),
}  # fmt: skip


class Simulated(StreamMachine):
    def make_server(self) -> Server:
        return SimulatedServer()


class Real(StreamMachine):
    client: ClassVar[redis.Redis]
    pubsub: ClassVar[Any]

    def make_server(self) -> Server:
        return RealServer(self.client, self.pubsub)


@pytest.fixture
def connected(redis_server: RedisServer) -> Iterator[None]:
    Real.client = redis.Redis.from_url(redis_server.url)
    Real.pubsub = Real.client.pubsub()
    Real.pubsub.subscribe("keep")
    yield
    Real.pubsub.close()
    Real.client.close()


@pytest.mark.parametrize("examples", [120, pytest.param(800, marks=pytest.mark.slow)])
def test_readers_have_the_stream_or_are_notified_on_a_simulated_server(examples: int) -> None:
    run_state_machine_as_test(
        Simulated, settings=settings(max_examples=examples, stateful_step_count=60, **_KNOWN)
    )


@pytest.mark.usefixtures("connected")
def test_readers_have_the_stream_or_are_notified_with_the_real_scripts() -> None:
    run_state_machine_as_test(Real, settings=settings(max_examples=60, stateful_step_count=50, **_KNOWN))
