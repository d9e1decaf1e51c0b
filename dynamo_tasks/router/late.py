"""Late binding: which of the requests that wait a worker with room takes. Pure, without a clock.

A request that waits brings the marks of its prompt: hashes of some of its blocks, each of which names all tokens before
it. The worker looks for them among the blocks of its own cache, which nobody knows better.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

__all__ = [
    "MARKS",
    "PATIENCE",
    "TURNS",
    "WINDOW",
    "Marks",
    "Pick",
    "QueuePolicy",
    "Waiting",
    "marks_of",
    "pick",
]

MARKS = 64
"""Most marks of one prompt: half a kilobyte, and its cached part is known to a 64th."""
WINDOW = 64
"""Requests at the head of the queue among which a worker chooses."""
PATIENCE = 1.15
"""Share of the longest queue that may be taken before a request that came to it; then it is the next. In their order,
as many would be taken before it as stood there."""
TURNS = 4.0
"""Turns by which a tenant may be ahead of the one whose turn it is."""

QueuePolicy = Literal["reuse", "fcfs", "wspt"]


class Marks(Struct, frozen=True, array_like=True):
    """A prompt as workers see it before they take it.

    Attributes:
        tokens: Of the prompt.
        step: Tokens from one mark to the next.
        hashes: Sequence hashes of the blocks that end there.
        policy: The order in which it is to be taken.
    """

    tokens: int
    step: int
    hashes: list[int]
    policy: QueuePolicy = "reuse"

    def cached(self, blocks: Container[int]) -> int:
        """Tokens at its beginning that a cache with these blocks has."""
        found = 0
        for value in self.hashes:
            if value not in blocks:
                break
            found += self.step
        return found

    def encode(self) -> bytes:
        """Encode as msgpack."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Marks | None:
        """Decode from msgpack; ``None`` where it is empty, or of a newer peer."""
        try:
            return msgspec.msgpack.decode(data, type=cls) if data else None
        except msgspec.DecodeError:
            return None


def marks_of(tokens: int, hashes: Sequence[int], block_size: int, policy: QueuePolicy = "reuse") -> Marks:
    """The marks of a prompt: every block of a short one, every n-th of a long one.

    Args:
        tokens: Of the prompt.
        hashes: Of its blocks.
        block_size: Tokens per block.
        policy: See :class:`Marks`.
    """
    each = max(1, -(-len(hashes) // MARKS))
    return Marks(tokens, each * block_size, list(hashes[each - 1 :: each]), policy)


class Waiting(NamedTuple):
    """A request in the window.

    Attributes:
        turn: Its virtual time, as the wait queue is ordered by.
        passed: How many were taken since it came.
        marks: Of its prompt; ``None`` = unknown.
        tenant: Whose it is.
    """

    turn: float
    passed: int
    marks: Marks | None
    tenant: str = ""


class Pick(NamedTuple):
    """The request that a worker takes, and why.

    Attributes:
        place: In the window.
        before: Places of its tenant's requests before it: it uses the turn of the first, and they move up by one.
        cached: Tokens of its prompt that the worker has.
    """

    place: int
    before: tuple[int, ...]
    cached: int


def pick(window: Sequence[Waiting], blocks: Container[int], longest: float) -> Pick:
    """Choose the request that a worker takes.

    What was taken before and had to come back; else, of tenants whose turn it is or soon will be, the first for whom
    :data:`PATIENCE` has ended; else the first of all where nothing is known of it; else what its policy likes best,
    the earlier one of equals.

    Args:
        window: Those at the head of the queue, in its order; at least one.
        blocks: Of the worker's cache.
        longest: Requests that the queue had at most, since it was empty.
    """
    head = window[0]
    if head.turn < 0:  # the front of the queue
        return _picked(window, 0, blocks)
    eligible = [*_eligible(window)]
    overdue = [place for place in eligible if window[place].passed >= PATIENCE * longest]
    if overdue:
        return _picked(window, overdue[0], blocks)
    # Without marks there is nothing to compare: the one whose turn it is.
    if head.marks is None or head.marks.policy == "fcfs":
        return _picked(window, 0, blocks)
    cost = _COSTS[head.marks.policy]
    costs = [(cost(marks, blocks), place) for place in eligible if (marks := window[place].marks) is not None]
    return _picked(window, min(costs)[1], blocks)


def _eligible(window: Sequence[Waiting]) -> Iterator[int]:
    """Places of those whose tenants may have a turn now."""
    first: dict[str, float] = {}
    for one in window:
        first.setdefault(one.tenant, one.turn)
    last = window[0].turn + TURNS
    return (place for place, one in enumerate(window) if first[one.tenant] <= last)


def _picked(window: Sequence[Waiting], place: int, blocks: Container[int]) -> Pick:
    marks, tenant = window[place].marks, window[place].tenant
    before = tuple(number for number in range(place) if window[number].tenant == tenant)
    return Pick(place, before, 0 if marks is None else marks.cached(blocks))


def _uncached(marks: Marks, blocks: Container[int]) -> float:
    return max(1, marks.tokens - marks.cached(blocks))


def _whole(marks: Marks, blocks: Container[int]) -> float:
    """Dynamo's WSPT: the shortest prompt, whatever of it is cached."""
    return marks.tokens


_COSTS: dict[str, Callable[[Marks, Container[int]], float]] = {"reuse": _uncached, "wspt": _whole}
