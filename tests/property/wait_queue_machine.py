"""Everything that can happen to what waits and runs, in any order, with the real scripts.

The invariants are those of ``docs/overload.md``; each step checks all of them.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dynamo_tasks.errors import FencedError
from dynamo_tasks.store.ledger.forwarding import preempt
from dynamo_tasks.store.ledger.ledger import Attempt
from dynamo_tasks.store.ledger.recovery import Recovery
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.queue_keys import PRIORITY_SEPARATOR, PRIORITY_STEPS, WAIT_QUEUE_STEP, priority_suffix
from tests.support.streams import Place
from tests.support.wait_queue import WaitQueue

__all__ = ["WaitQueueMachine"]

WINDOW = 16
LEASES = (0x71, 0x72, 0x73)
LIMIT = 3
_ENDED = {"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"}
picks = st.integers(0, 1000)


# Named functions: Hypothesis parses a lambda's source, in which Python 3.11.7 may fail.
def _has_popped(machine: WaitQueueMachine) -> bool:
    return bool(machine.popped)


def _has_attempts(machine: WaitQueueMachine) -> bool:
    return bool(machine.attempts)


def _has_ids(machine: WaitQueueMachine) -> bool:
    return bool(machine.ids)


class WaitQueueMachine(RuleBasedStateMachine):
    """Three instances, three tenants, four priorities; half of the runs with a limit of three at a time."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.place = Place(self.url)
        self.ask(self.place.__aenter__())
        self.line = WaitQueue(self.place)
        self.ids: list[str] = []
        self.popped: list[str] = []
        self.attempts: list[Attempt] = []
        self.preempted: set[str] = set()
        self.limit = 0

    def ask(self, coro: Any) -> Any:
        return self.loop.run_until_complete(coro)

    def do(self, *command: Any) -> Any:
        return self.ask(self.place.do(*command))

    def states(self) -> dict[str, str]:
        return {one: self.ask(self.place.state(one)) for one in self.ids}

    @initialize(limited=st.booleans())
    def begin(self, limited: bool) -> None:
        self.limit = LIMIT if limited else 0
        self.ask(self.line.limits(concurrency=self.limit or None))
        for lease in LEASES:
            self.do("SET", self.place.keys.lease(lease), "1")
        # Enough for a line from the start on.
        self.submit(6, "a", 0, 1.0)
        self.submit(14 if limited else 24, "b", 3, 1.0)

    @rule(
        count=st.integers(1, 9),
        tenant=st.sampled_from("abc"),
        priority=st.sampled_from([0, 0, 3, 9]),
        weight=st.sampled_from([1.0, 1.0, 3.0]),
    )
    def submit(self, count: int, tenant: str, priority: int, weight: float) -> None:
        self.ids += self.ask(self.line.submit(count=count, tenant=tenant, priority=priority, weight=weight))

    @rule(lease=st.sampled_from(LEASES), count=st.integers(1, 4))
    def take(self, lease: int, count: int) -> None:
        """What a worker does as long as all goes well."""
        for _ in range(count):
            self.pop()
            if self.popped:
                self.claim(-1, lease, False)

    @rule()
    def pop(self) -> None:
        request_id = self.ask(self.line.pop())
        if request_id is not None:
            self.popped.append(request_id)

    @precondition(_has_popped)
    @rule(pick=picks)
    def lose_a_popped_message(self, pick: int) -> None:
        self.popped.pop(pick % len(self.popped))

    @precondition(_has_popped)
    @rule(pick=picks, lease=st.sampled_from(LEASES), twice=st.booleans())
    def claim(self, pick: int, lease: int, twice: bool) -> None:
        request_id = self.popped.pop(pick % len(self.popped))
        attempt = self.ask(self.line.claim(request_id, lease, "n"))
        if twice and attempt is not None:
            again = self.ask(self.line.claim(request_id, lease, "n"))
            assert again.epoch == attempt.epoch
        if attempt is not None:
            self.attempts.append(attempt)

    @precondition(_has_attempts)
    @rule(pick=picks)
    def finish(self, pick: int) -> None:
        self.ask(self.line.finish(self.attempts.pop(pick % len(self.attempts))))

    @precondition(_has_attempts)
    @rule(pick=picks, front=st.booleans())
    def release(self, pick: int, front: bool) -> None:
        attempt = self.attempts.pop(pick % len(self.attempts))
        try:
            self.ask(self.place.ledger.release(attempt, retries=0, front=front))
        except FencedError:
            return

    @precondition(_has_attempts)
    @rule(pick=picks, shared=st.booleans())
    def preempt(self, pick: int, shared: bool) -> None:
        attempt = self.attempts.pop(pick % len(self.attempts))
        if self.ask(preempt(self.place.store, attempt, shared=shared)) == "OK":
            self.preempted.add(attempt.id)

    @precondition(_has_ids)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        self.ask(self.place.ledger.cancel(self.place.namespace, self.ids[pick % len(self.ids)]))

    @precondition(_has_ids)
    @rule(pick=picks)
    def purge(self, pick: int) -> None:
        self.ask(self.place.ledger.upkeep.purge(self.place.namespace, self.ids[pick % len(self.ids)]))

    @rule(lease=st.sampled_from(LEASES))
    def die(self, lease: int) -> None:
        """It is found dead, what it held is requeued, and it comes again."""
        self.do("DEL", self.place.keys.lease(lease))
        for raw in self.do("SMEMBERS", self.place.keys.owned(lease)):
            self._recovered(raw.decode(), lease)
        self.do("SET", self.place.keys.lease(lease), "1")

    def _recovered(self, request_id: str, lease: int) -> None:
        self.ask(Recovery(self.place.store).requeue(self.place.namespace, request_id, lease))

    @precondition(_has_ids)
    @rule(pick=picks)
    def deliver_twice(self, pick: int) -> None:
        request_id = self.ids[pick % len(self.ids)]
        self.do("LPUSH", self.place.queue, json.dumps({"headers": {"id": request_id}}))

    @rule()
    def sweep(self) -> None:
        self.ask(self.line.admit())

    @rule()
    def send_lost_messages_again(self) -> None:
        for request_id in self.ids:
            self._orphan(request_id)

    def _orphan(self, request_id: str) -> None:
        if request_id in self.popped:
            return
        keys = [self.place.keys.record(request_id), self.place.keys.stream(request_id)]
        run = script("lost_message").run(
            self.place.store.commands, keys, base=self.place.keys.base, id=request_id, republish=1
        )
        self.ask(run)

    @invariant()
    def counted_as_recorded(self) -> None:
        states = self.states()
        running = {one for one, state in states.items() if state == "RUNNING"}
        assert self.ask(self.line.running()) == running
        queued = {one for one, s in states.items() if s == "QUEUED"}
        assert queued - self.preempted <= self.ask(self.line.waiting()) <= queued
        assert not self.limit or len(running) <= self.limit

    @invariant()
    def lines_are_whole(self) -> None:
        """Who stands in line is queued and in no list; lengths add up; nothing is left of a line that is empty."""
        standing = 0
        for suffix in map(priority_suffix, PRIORITY_STEPS):
            name = f"{self.line.component}:{self.place.queue}{suffix}"
            ids = {raw.decode() for raw in self.do("ZRANGE", f"{self.place.keys.base}line:{name}", 0, -1)}
            standing += len(ids)
            assert ids <= self.ask(self.line.waiting())
            indexed = self.do("SISMEMBER", f"{self.place.keys.base}lines", name)
            assert bool(indexed) == bool(ids)
            assert ids or not self.do("EXISTS", f"{self.place.keys.base}tags:{name}")
        shadow = f"{self.place.queue}{PRIORITY_SEPARATOR}{WAIT_QUEUE_STEP}"
        assert self.do("LLEN", shadow) == standing

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """Behind a sweep, there is a line only where a list is half full, or as many run or may be popped as may."""
        self.ask(self.line.admit())
        lists = [self.place.queue + suffix for suffix in map(priority_suffix, PRIORITY_STEPS)]
        lengths = {one: int(self.do("LLEN", one)) for one in lists}
        full = self.limit and sum(lengths.values()) + len(self.ask(self.line.running())) >= self.limit
        for raw in self.do("SMEMBERS", f"{self.place.keys.base}lines"):
            assert full or lengths[raw.decode().split(":", 1)[1]] > WINDOW // 2

    def teardown(self) -> None:
        """Whatever happened: all of them reach an end."""
        try:
            self._to_the_end()
        finally:
            self.ask(self.place.__aexit__())
            self.loop.close()

    def _to_the_end(self) -> None:
        for attempt in self.attempts:
            self.ask(self.line.finish(attempt))
        for lease in LEASES:
            self.die(lease)
        self.popped.clear()
        for _ in range(len(self.ids) * 3 + 10):
            while (request_id := self.ask(self.line.pop())) is not None:
                attempt = self.ask(self.line.claim(request_id, LEASES[0]))
                if attempt is not None:
                    self.ask(self.line.finish(attempt))
            self.send_lost_messages_again()
            if set(self.states().values()) <= _ENDED:
                return
        raise AssertionError(f"without an end: {self.states()}")
