"""The position of a reader in a stream, and the event that may come next. Pure: no I/O, no clock.

Rules:

* an event *follows* the last applied one if it has the same epoch and the next seq, or if it is the first one
  of a later epoch (a claim, or an end by somebody who is not the owner) and names the last applied id;
* an id that is not above the last applied one is old: ignored;
* a pushed event whose epoch is below the last claim that was seen is ignored: a push can carry an event
  that the stream has refused;
* any other pushed event is a gap: read the stream from the last applied id;
* the stream itself is read in order, so what does not follow there shows that Redis forgot events which
  this reader has seen: diverged.
"""

from __future__ import annotations

from enum import Enum

from dynamo_tasks.protocol.events import ZERO, Claim, End, Event, EventId, Kind

__all__ = ["Cursor", "Verdict"]


class Verdict(Enum):
    """The judgement of an event."""

    APPLY = "apply"
    IGNORE = "ignore"
    GAP = "gap"
    DIVERGED = "diverged"


class Cursor:
    """Position of one reader.

    Args:
        last: The last event that the reader has; ``0-0`` for none.
    """

    __slots__ = ("claimed", "ended", "last")

    def __init__(self, last: EventId = ZERO):
        self.last = last
        self.claimed = last.epoch
        """The highest epoch that is known to have begun."""
        self.ended = False

    def pushed(self, event: Event) -> Verdict:
        """Judge an event that was pushed; pushes may be lost, repeated, or refused by the stream afterwards."""
        epoch, seq = event.id
        last = self.last
        if self.ended or event.id <= last or epoch < self.claimed:
            return Verdict.IGNORE
        if epoch == last.epoch:
            follows = seq == last.seq + 1
        else:
            follows = _predecessor(event) == last
            if seq == 0:
                self.claimed = epoch
        return self._apply(event) if follows else Verdict.GAP

    def note(self, event: Event) -> None:
        """Note a pushed event that is not judged now: if it begins an epoch, older ones are over."""
        if event.id.seq == 0 and event.id.epoch > self.claimed:
            self.claimed = event.id.epoch

    def stored(self, event: Event) -> Verdict:
        """Judge an event that was read from the stream, in order."""
        last = self.last
        if self.ended or event.id <= last:
            return Verdict.IGNORE
        same = event.id.epoch == last.epoch
        follows = event.id.seq == last.seq + 1 if same else _predecessor(event) == last
        return self._apply(event) if follows else Verdict.DIVERGED

    def _apply(self, event: Event) -> Verdict:
        self.last = event.id
        if event.id.epoch > self.claimed:
            self.claimed = event.id.epoch
        self.ended = event.kind == Kind.END
        return Verdict.APPLY


def _predecessor(event: Event) -> EventId | None:
    """The id that the first event of an epoch names; ``None`` for an event that can't begin one."""
    if event.id.seq != 0:
        return None
    if event.kind == Kind.CLAIM:
        return Claim.decode(event.data).previous
    if event.kind == Kind.END:
        previous = End.decode(event.data).previous
        return EventId.parse(previous) if previous else None
    return None
