"""What waits and what runs, under every order of events (see ``wait_queue_machine.py``)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.property.wait_queue_machine import WaitQueueMachine
from tests.support.server import RedisServer


def _run(server: RedisServer, examples: int, steps: int) -> None:
    WaitQueueMachine.url = server.url
    run_state_machine_as_test(
        WaitQueueMachine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
            # A failure is told at once: with a server in every step, making it smaller takes minutes.
            phases=(Phase.generate,),
        ),
    )  # fmt: skip


def test_the_line_keeps_its_invariants(own_server: RedisServer) -> None:
    _run(own_server, 10, 40)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_line_keeps_its_invariants_for_long(own_server: RedisServer) -> None:
    _run(own_server, 150, 60)
