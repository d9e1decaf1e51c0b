"""Which event may come next."""

from __future__ import annotations

import pytest

from dynamo_tasks.protocol.events import ZERO, Claim, End, Event, EventId, Kind
from dynamo_tasks.protocol.states import State
from dynamo_tasks.store.streams.subscription import Cursor, Verdict

APPLY, IGNORE, GAP, DIVERGED = Verdict.APPLY, Verdict.IGNORE, Verdict.GAP, Verdict.DIVERGED


def value(epoch: int, seq: int) -> Event:
    return Event(EventId(epoch, seq), Kind.VALUES, b"\x90")


def claim(epoch: int, after: EventId = ZERO) -> Event:
    return Event(EventId(epoch, 0), Kind.CLAIM, Claim(after, 1, 7).encode())


def end(epoch: int, seq: int, after: EventId | None = None) -> Event:
    done = End(State.CANCELLED, previous=None if after is None else str(after))
    return Event(EventId(epoch, seq), Kind.END, done.encode())


@pytest.mark.parametrize(
    ("event", "pushed", "logged"),
    [
        (value(5, 4), APPLY, APPLY),
        (value(5, 3), IGNORE, IGNORE),
        (value(5, 5), GAP, DIVERGED),
        (value(4, 9), IGNORE, IGNORE),
        (claim(9, EventId(5, 3)), APPLY, APPLY),
        (claim(9, EventId(5, 4)), GAP, DIVERGED),
        (claim(9, EventId(5, 2)), GAP, DIVERGED),
        (value(9, 1), GAP, DIVERGED),
        (value(9, 0), GAP, DIVERGED),
        (end(5, 4), APPLY, APPLY),
        (end(6, 0, EventId(5, 3)), APPLY, APPLY),
        (end(6, 0, EventId(5, 2)), GAP, DIVERGED),
        (end(6, 0), GAP, DIVERGED),
        (end(6, 1, EventId(5, 3)), GAP, DIVERGED),
    ],
)
def test_what_follows(event: Event, pushed: Verdict, logged: Verdict) -> None:
    last = EventId(5, 3)
    for judge, verdict in ((Cursor.pushed, pushed), (Cursor.stored, logged)):
        cursor = Cursor(last)
        assert judge(cursor, event) is verdict
        assert cursor.last == (event.id if verdict is APPLY else last)
        assert cursor.ended == (verdict is APPLY and event.kind == Kind.END)


def test_a_push_that_the_log_refused_is_dropped_once_a_later_claim_is_known() -> None:
    cursor = Cursor(EventId(5, 3))
    assert cursor.pushed(claim(9, EventId(5, 5))) is GAP  # 5-4 and 5-5 were lost on the way
    assert cursor.pushed(value(5, 4)) is IGNORE  # whatever this is, only the log tells
    noted = Cursor(EventId(5, 3))
    noted.note(claim(9, EventId(5, 3)))  # dropped unread, its meaning stays
    assert noted.pushed(value(5, 4)) is IGNORE
    assert noted.stored(value(5, 4)) is APPLY


def test_nothing_follows_the_end() -> None:
    cursor = Cursor(EventId(5, 3))
    assert cursor.pushed(end(5, 4)) is APPLY
    for event in (value(5, 5), claim(9, EventId(5, 4)), end(9, 0, EventId(5, 4))):
        assert cursor.pushed(event) is IGNORE
        assert cursor.stored(event) is IGNORE


def test_the_first_event_of_a_stream_is_a_claim_or_an_end() -> None:
    assert Cursor().pushed(claim(5)) is APPLY
    assert Cursor().pushed(end(5, 0, ZERO)) is APPLY
    assert Cursor().pushed(value(5, 1)) is GAP
