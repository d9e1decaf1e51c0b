"""Preemption: a running request that uses spare capacity gives its slot to one of a higher priority, and goes on later.

A full worker takes messages all the same, from lists of higher priorities than its preemptible attempts have, and no
more than it has such attempts. When one of these messages is claimed, an attempt is released for it: the one of the
lowest priority; among those one that has put something out since its claim; among those the youngest request. So the
oldest request keeps its slot longest, and every one ends at last. The invariants are in docs/overload.md.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from dynamo_tasks.observe import metrics
from dynamo_tasks.sdk.context import Context
from dynamo_tasks.store.streams.open_stream import OpenStream

__all__ = ["Offer", "Preemption"]


class Offer:
    """An attempt that may be released for others at any moment.

    Attributes:
        release: Stops it, and queues its request again.
        step: Priority step of its list.
        created: When its request was submitted, in ms.
        chosen: When it was chosen to leave, monotonic seconds.
    """

    __slots__ = ("_stream", "chosen", "created", "release", "step")

    def __init__(self, stream: OpenStream, release: Callable[[], None]):
        self.step = stream.attempt.step
        self.created = stream.attempt.created
        self.release = release
        self.chosen = 0.0
        self._stream = stream

    @property
    def cost(self) -> tuple[int, bool, int]:
        """The greatest is released first."""
        return self.step, self._stream.busy or self._stream.top.seq > 0, self.created


class Preemption:
    """The attempts of one worker process that may be released for others.

    Attributes:
        offers: Those that may be released now. Where there are none, nobody needs to be told of anything.
        on_arrival: Called when an attempt begins, or a plain task, while some may be released.
        on_change: Called when there are more of them, or one less.
        total: Attempts that were released so far.
    """

    def __init__(self) -> None:
        self.on_arrival: Callable[[], None] = _nothing
        self.on_change: Callable[[], None] = _nothing
        self.total = 0
        self.offers: set[Offer] = set()
        self._steps: Counter[int] = Counter()
        self._leaving: set[Offer] = set()

    @property
    def ready(self) -> int:
        """Attempts that may be released."""
        return len(self.offers)

    @property
    def leaving(self) -> int:
        """Attempts that are being released."""
        return len(self._leaving)

    def arrived(self) -> None:
        """Something begins to run, which may have come for the slot of another."""
        self.on_arrival()

    def ended(self) -> None:
        """Something has ended: others may be taken in its place."""
        self.on_change()

    def offer(self, context: Context, stream: OpenStream, release: Callable[[], None]) -> Offer:
        """Offer an attempt from now on.

        Args:
            context: Its request. With the first call that it makes it is withdrawn: nobody would read what that puts
                out meanwhile.
            stream: What it puts out.
            release: Stops it, and queues its request again.
        """
        offer = Offer(stream, release)
        context.on_call = partial(self.withdraw, offer)
        self.offers.add(offer)
        self._steps[offer.step] += 1
        self.on_change()
        return offer

    def withdraw(self, offer: Offer) -> None:
        """It may be released no more: it has ended, is stopped, or began what can't be left alone."""
        if offer in self.offers:
            self._remove(offer)
            self.on_change()

    def choose(self) -> Offer | None:
        """Take the attempt that is released next out of those that may be; ``None`` where there is none.

        One in the first list is never released: nobody is before it.
        """
        chosen = max(self.offers, key=_cost, default=None)
        if chosen is None or not chosen.step:
            return None
        self._remove(chosen)
        self._leaving.add(chosen)
        chosen.chosen = time.monotonic()
        return chosen

    def left(self, offer: Offer) -> None:
        """It is over."""
        if offer in self._leaving:
            self._leaving.discard(offer)
            metrics.histogram("preemption_seconds").observe(time.monotonic() - offer.chosen)
        self.withdraw(offer)
        offer.release = _nothing  # the attempt knows its offer, too: no circle is left

    def allowance(self, over: int) -> tuple[int, int]:
        """Return how many more messages may be taken, and from lists of which priority steps: those below a step.

        Args:
            over: Messages that are here for which there is no slot.

        Returns:
            Most messages, and the step: that of the attempts which would be released.
        """
        # For these, attempts are being released, or will be once they are claimed.
        pending = max(0, over - len(self._leaving))
        for step in sorted(filter(None, self._steps), reverse=True):
            if self._steps[step] > pending:
                return self._steps[step] - pending, step
            pending -= self._steps[step]
        return 0, 0

    def _remove(self, offer: Offer) -> None:
        self.offers.discard(offer)
        self._steps[offer.step] -= 1
        if not self._steps[offer.step]:
            del self._steps[offer.step]


def _cost(offer: Offer) -> tuple[int, bool, int]:
    return offer.cost


def _nothing() -> None:
    """Nobody is concerned yet."""
