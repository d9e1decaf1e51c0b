"""The ledger's invariants (docs/ledger.md) under every order of events, on the real scripts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from dynamo_tasks.store.ledger.scripts import SOURCES
from dynamo_tasks.store.redis.server import Store
from tests.property.ledger_machine import LedgerMachine
from tests.property.ledger_parts import simulated_clock
from tests.support.server import RedisServer

NAMES = sorted(name for name in SOURCES if not name.startswith("lib/"))


@contextlib.contextmanager
def connection(url: str) -> Iterator[None]:
    """The machine acts on this server."""
    loop = asyncio.new_event_loop()
    LedgerMachine.loop = loop
    LedgerMachine.client = redis.Redis.from_url(url)
    LedgerMachine.store = loop.run_until_complete(Store.connect(url))
    yield
    loop.run_until_complete(LedgerMachine.store.close())
    loop.close()
    LedgerMachine.client.close()


@pytest.fixture
def connected(own_server: RedisServer) -> Iterator[None]:
    with connection(own_server.url):
        yield


def run_machine(examples: int, steps: int, *, seeded: bool = True, shrink: bool = True) -> None:
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None, derandomize=seeded,
            suppress_health_check=list(HealthCheck), phases=phases,
            report_multiple_bugs=False,
        ),
    )  # fmt: skip


@pytest.mark.usefixtures("connected")
def test_the_invariants_hold() -> None:
    with simulated_clock(NAMES):
        run_machine(25, 40)


@pytest.mark.usefixtures("connected")
def test_a_dead_request_that_was_settled_and_purged_keeps_nothing() -> None:
    """Found by a long run."""
    with simulated_clock(NAMES):
        state = LedgerMachine()
        state.begin()
        state.poison(n=1, revive=False)
        state.work(n=1, settle=True)
        state.purge(n=1)
        state.holds()
        state.teardown()


@pytest.mark.usefixtures("connected")
def test_what_a_zombie_settles_after_its_message_was_sent_again_is_purged() -> None:
    """Found by a long run."""
    with simulated_clock(NAMES):
        state = LedgerMachine()
        state.begin()
        state.cancel(n=0)
        state.serve(n=1, own=False, append=False)
        state.lapse(n=1)
        state.take_the_living_for_dead(n=1)
        state.settle(n=1)
        state.purge(n=0)
        state.holds()
        state.teardown()


@pytest.mark.usefixtures("connected")
def test_a_deadline_passes_behind_the_death_of_whoever_had_started_the_request() -> None:
    """Found by a long run: it expires in the queue, although it was started in time."""
    with simulated_clock(NAMES):
        state = LedgerMachine()
        state.begin()
        state.submit(2, False, 0, 0, 8, 0, False, False, "", b"")
        for _ in range(3):
            state.serve(n=1, own=False, append=False)
        state.fail_over(n=1)
        state.holds()
        state.time_passes(10_000)
        state.sweep()
        state.holds()
        state.teardown()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("connected")
def test_the_invariants_hold_in_long_runs() -> None:
    with simulated_clock(NAMES):
        run_machine(600, 80, seeded=False)
