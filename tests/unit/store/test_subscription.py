"""A reader that is behind: which pushes wait, which are dropped, when it is live again."""

from __future__ import annotations

from dynamo_tasks.protocol.events import ZERO, Claim, Event, EventId, Kind
from dynamo_tasks.store.streams import subscription
from dynamo_tasks.store.streams.subscription import Subscription


def claim(epoch: int, after: EventId = ZERO) -> Event:
    return Event(EventId(epoch, 0), Kind.CLAIM, Claim(after, 1, 7).encode())


def value(epoch: int, seq: int) -> Event:
    return Event(EventId(epoch, seq), Kind.VALUES, b"\x90")


def reader(gaps: list[Subscription], *, behind: bool = True) -> Subscription:
    return Subscription("n", "r", ZERO, on_gap=gaps.append, on_close=lambda sub: None, now=0.0, behind=behind)


LOG = [claim(5), value(5, 1), value(5, 2)]


def test_what_is_pushed_while_the_log_is_read_is_applied_behind_it() -> None:
    gaps: list[Subscription] = []
    sub = reader(gaps)
    for event in (LOG[2], value(5, 3)):  # the first is in the page as well
        sub.feed(event, 0.0)
    assert sub.take() == []
    sub.fill(LOG, 0.0)
    sub.caught_up(0.0)
    assert sub.take() == [*LOG, value(5, 3)]
    assert gaps == []
    sub.feed(value(5, 4), 0.0)
    assert sub.take() == [value(5, 4)]


def test_a_refused_push_that_waited_is_dropped() -> None:
    sub = reader([])
    sub.feed(value(5, 3), 0.0)
    sub.fill([*LOG, claim(9, EventId(5, 2))], 0.0)
    sub.caught_up(0.0)
    assert value(5, 3) not in sub.take()


def test_a_gap_waits_for_the_log() -> None:
    gaps: list[Subscription] = []
    sub = reader(gaps, behind=False)
    sub.feed(LOG[0], 0.0)
    sub.feed(LOG[2], 0.0)
    sub.feed(value(5, 3), 0.0)
    assert (sub.take(), gaps) == ([LOG[0]], [sub])
    sub.fill(LOG[1:2], 0.0)
    sub.caught_up(0.0)
    assert sub.take() == [*LOG[1:], value(5, 3)]


def test_too_many_waiting_pushes_mean_one_more_read() -> None:
    gaps: list[Subscription] = []
    sub = reader(gaps)
    for seq in range(1, subscription.HELD + 10):
        sub.feed(value(5, seq), 0.0)
    sub.fill(LOG, 0.0)
    sub.caught_up(0.0)
    assert (gaps, sub.behind) == ([sub], True)
    sub.caught_up(0.0)
    assert not sub.behind


def test_a_record_must_be_missing_for_a_while() -> None:
    sub = reader([])
    sub.missing(0.0)
    sub.missing(subscription.GONE_AFTER - 0.1)
    assert sub.failed is None
    sub.checked(3.0)
    sub.missing(4.0)
    assert sub.failed is None
    sub.missing(4.0 + subscription.GONE_AFTER)
    assert sub.failed is not None
