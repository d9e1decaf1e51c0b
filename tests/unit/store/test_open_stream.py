"""The write side of a log: pending, frozen, acknowledged, told again."""

from __future__ import annotations

import pytest

from dynamo_tasks.errors import FencedError, StreamTooLargeError
from dynamo_tasks.protocol.events import ZERO, EventId
from dynamo_tasks.protocol.tokens import TokenDelta, decode_deltas
from dynamo_tasks.sdk.context import Context
from dynamo_tasks.store.ledger.ledger import Attempt
from dynamo_tasks.store.streams.open_stream import KEEP, OpenStream


def open_log(cap: int = 1 << 20) -> OpenStream:
    attempt = Attempt(
        namespace="n",
        id="r",
        lease=1,
        nonce="x",
        epoch=7,
        previous=ZERO,
        number=1,
        readers=[],
        deadline=0.0,
        fields=[],
    )
    return OpenStream(attempt, changed=lambda log: None, on_dead=lambda reason: None, cap=cap)


def written(log: OpenStream, count: int, now: float = 0.0) -> None:
    for n in range(count):
        log.append(n)
        log.freeze()
    log.acknowledge(len(log.frozen), now)


def seqs(log: OpenStream) -> list[int]:
    return [entry.seq for entry in log.frozen]


def test_ids_ascend_without_a_gap_and_tokens_gather() -> None:
    log = open_log()
    for text in "abc":
        log.append(TokenDelta(text, [ord(text)]))
    log.append({"other": 1})
    log.freeze()
    assert seqs(log) == [1, 2]
    assert [(d.text, d.token_ids) for d in decode_deltas(log.frozen[0].data)] == [("abc", [97, 98, 99])]
    assert log.top == EventId(7, 2)


def test_what_is_frozen_does_not_change() -> None:
    log = open_log()
    log.append(TokenDelta("a"))
    log.freeze()
    before = log.frozen[0]
    log.append(TokenDelta("b"))
    log.freeze()
    assert log.frozen[0] == before
    assert seqs(log) == [1, 2]


def test_a_server_that_forgot_is_sent_what_is_kept() -> None:
    log = open_log()
    written(log, 4)
    log.append("new")
    log.freeze()
    assert log.realign(EventId(7, 2), 0.0)
    assert seqs(log) == [3, 4, 5]


def test_an_entry_that_is_there_already_is_a_duplicate() -> None:
    log = open_log()
    written(log, 1)
    for n in range(3):
        log.append(n)
        log.freeze()
    assert log.realign(EventId(7, 3), 0.0)  # the reply of the last flush was lost
    assert seqs(log) == [4]


def test_what_is_too_old_is_not_kept() -> None:
    log = open_log()
    written(log, 2, now=0.0)
    written(log, 1, now=KEEP + 0.1)
    assert log.realign(EventId(7, 2), KEEP + 0.1)
    assert not log.realign(EventId(7, 1), KEEP + 0.1)


def test_the_cap_counts_what_is_not_sent_yet() -> None:
    log = open_log(cap=100)
    log.append("x" * 200)
    with pytest.raises(StreamTooLargeError):
        log.append("y")


def test_nothing_is_written_after_death() -> None:
    log = open_log()
    log.append(1)
    log.die(FencedError())
    log.die(StreamTooLargeError())
    with pytest.raises(FencedError):
        log.append(2)
    assert not log.busy


def test_a_context_knows_whether_the_log_is_read() -> None:
    log, context = open_log(), Context("r")
    assert context.is_read  # nothing is known
    context.read_while(log.is_read)
    assert not context.is_read
    log.set_readers(["channel"])
    assert context.is_read
    log.set_readers([])
    assert not context.is_read
    context.read_while(None)
    assert context.is_read
