"""Where a reader stands in a stream, and which event may come next. Pure: no I/O, no clock.

Rules:

* an event *follows* the last applied one if it has the same epoch and the next seq, or if it is a
  claim or an end of a later epoch that names, or directly follows, the last applied id;
* an id that is not above the last applied one is old: ignored;
* anything else is a gap: read the log from the last applied id;
* the log itself is read in order, so there a later epoch's claim must name the last applied id. Names it a
  lower one, the server forgot events that this reader has seen: diverged.

An end that is written by a non-owner has id ``<epoch + 1>-0`` and names no predecessor; pushed, it is
applied only where nothing can have been missed, i.e. it is treated as a gap; in the log it always follows.
"""

from __future__ import annotations

from enum import Enum

from dynamo_tasks.protocol.events import ZERO, Claim, Event, EventId, Kind

__all__ = ["Cursor", "Verdict"]


class Verdict(Enum):
    """What to do with an event."""

    APPLY = "apply"
    IGNORE = "ignore"
    GAP = "gap"
    DIVERGED = "diverged"


class Cursor:
    """Position of one reader.

    Args:
        last: The last event that the reader has; ``0-0`` for none.
    """

    __slots__ = ("ended", "last")

    def __init__(self, last: EventId = ZERO):
        self.last = last
        self.ended = False

    def pushed(self, event: Event) -> Verdict:
        """Judge an event that was pushed; pushes may be lost, repeated, or refused by the log afterwards."""
        last = self.last
        if self.ended or event.id <= last:
            return Verdict.IGNORE
        if event.id.epoch == last.epoch:
            follows = event.id.seq == last.seq + 1
        else:
            follows = event.kind == Kind.CLAIM and Claim.decode(event.data).previous == last
        return self._apply(event) if follows else Verdict.GAP

    def logged(self, event: Event) -> Verdict:
        """Judge an event that was read from the log, in order."""
        last = self.last
        if self.ended or event.id <= last:
            return Verdict.IGNORE
        if event.id.epoch == last.epoch:
            return self._apply(event) if event.id.seq == last.seq + 1 else Verdict.DIVERGED
        if event.kind == Kind.CLAIM and Claim.decode(event.data).previous != last:
            return Verdict.DIVERGED
        if event.kind not in (Kind.CLAIM, Kind.END):
            return Verdict.DIVERGED
        return self._apply(event)

    def _apply(self, event: Event) -> Verdict:
        self.last = event.id
        self.ended = event.kind == Kind.END
        return Verdict.APPLY
