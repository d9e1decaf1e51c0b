"""Which attempt leaves, and what a worker may take for its slot."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_tasks.protocol.events import EventId
from dynamo_tasks.queue.execution.preemption import Offer, Preemption
from dynamo_tasks.sdk.context import Context


@dataclass
class Running:
    """A worker with attempts, of which only the step, the age and whether they have put something out count."""

    preemption: Preemption = field(default_factory=Preemption)
    released: list[str] = field(default_factory=list)
    names: dict[Offer, str] = field(default_factory=dict)
    contexts: dict[str, Context] = field(default_factory=dict)

    def offer(self, name: str, step: int = 9, created: int = 0, *, seq: int = 1) -> Offer:
        stream: Any = SimpleNamespace(
            attempt=SimpleNamespace(step=step, created=created), busy=False, top=EventId(5, seq)
        )
        context = self.contexts[name] = Context(name)
        made = self.preemption.offer(context, stream, lambda: self.released.append(name))
        self.names[made] = name
        return made

    def order(self) -> list[str]:
        out = []
        while (chosen := self.preemption.choose()) is not None:
            out.append(self.names[chosen])
        return out


@pytest.fixture
def running() -> Running:
    return Running()


def test_the_youngest_leaves_first(running: Running) -> None:
    for name, created in (("b", 20), ("c", 30), ("a", 10)):
        running.offer(name, created=created)
    assert running.order() == ["c", "b", "a"]


def test_one_of_a_lower_priority_leaves_before_it(running: Running) -> None:
    running.offer("young", step=3, created=9)
    running.offer("old", step=9, created=1)
    assert running.order() == ["old", "young"]


def test_one_that_has_made_progress_leaves_before_one_that_has_made_none(running: Running) -> None:
    running.offer("began", created=9, seq=0)
    running.offer("went on", created=1)
    assert running.order() == ["went on", "began"]


def test_nobody_is_before_the_first_list(running: Running) -> None:
    running.offer("first", step=0)
    assert running.preemption.allowance(0) == (0, 0)
    assert running.order() == []


def test_as_many_may_come_as_would_leave_for_them(running: Running) -> None:
    running.offer("a")
    running.offer("b")
    running.offer("better", step=3)
    allowance = running.preemption.allowance
    assert [allowance(over) for over in range(4)] == [(2, 9), (1, 9), (1, 3), (0, 0)]
    assert running.preemption.choose() is not None
    # The one that leaves has the place of one that is here.
    assert [allowance(over) for over in range(4)] == [(1, 9), (1, 9), (1, 3), (0, 0)]


def test_what_has_left_makes_room_no_more(running: Running) -> None:
    offer = running.offer("a")
    assert running.preemption.choose() is offer
    assert (running.preemption.ready, running.preemption.leaving) == (0, 1)
    running.preemption.left(offer)
    assert (running.preemption.ready, running.preemption.leaving) == (0, 0)
    assert running.preemption.allowance(1) == (0, 0)
    offer.release()
    assert running.released == [], "it knows its attempt no more"


def test_one_that_ends_by_itself_is_offered_no_more(running: Running) -> None:
    offer = running.offer("a")
    running.preemption.left(offer)
    assert running.preemption.choose() is None
    running.preemption.left(offer)


def test_one_that_makes_a_call_is_offered_no_more(running: Running) -> None:
    running.offer("a")
    running.contexts["a"].child_id()
    assert running.preemption.choose() is None


def test_changes_are_told(running: Running) -> None:
    told: list[tuple[int, int]] = []
    preemption = running.preemption
    preemption.on_change = lambda: told.append(preemption.allowance(0))
    arrived: list[int] = []
    preemption.on_arrival = lambda: arrived.append(preemption.ready)
    assert not preemption.offers  # and nobody needs to tell it anything
    first = running.offer("a", step=3)
    running.offer("b")
    preemption.arrived()
    preemption.withdraw(first)
    preemption.withdraw(first)
    assert told == [(1, 3), (1, 9), (1, 9)]
    assert arrived == [2]
