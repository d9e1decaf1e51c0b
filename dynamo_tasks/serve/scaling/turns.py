"""The turns of components that share a device: one of them is wanted at a time, the others have none, or sleep.

::

    at rest ── its claim is the oldest, all others are at rest ─▶ turn ── others wait, and it has nothing to do,
       ▲                                                           │      or had its time, or does not start; or others
       │                                                           │      wait that go before what it has to do
       └──────── at rest again ◀── drains, sleeps or ends ◀────────┴── or nobody has asked for it for `idle` seconds

What holds:

1. Of those that share a device at most one is wanted. The script ``scale`` sees to it.
2. Processes of one are started or woken only while nothing of the others is awake, draining or starting
   (:meth:`~dynamo_tasks.store.scales.Scales.occupy`): a turn that has been given waits for that.
3. A turn ends by draining: requests run on for the grace period, and are then requeued to go on in a later turn. None
   is lost, and none is cut off but where its component would be drained anyway.
4. Claims of a priority are served in the order in which they came. A claim begins when a request waits and, for one
   that had its turn, not before the end of that: it lines up behind all that waited meanwhile. So nobody waits for more
   than one turn of each other component whose requests have the same priority.
5. A higher priority goes first: its claim is served before others, and ends the turn of one that has only lower ones to
   do. Each turn lasts for a tenth of its time at least, so that changes do not take all of it; and a claim that is ten
   turns old goes before as if it were of the highest priority, so that everybody's turn comes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dynamo_tasks.protocol.scale import Bounds, ScaledBy

__all__ = ["Member", "next_turn"]

_LEAST = 0.1
"""Part of its time that a turn lasts where it ends for a higher priority."""
_OLD = 10.0
"""Turns after which a claim goes before, whatever its priority."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One of the components that share a device.

    Attributes:
        component: Its name.
        bounds: Of its deployment.
        wanted: Its instances that are wanted now.
        by_hand: Whether somebody has said so: then nothing here changes it.
        at_rest: Whether none of its processes is awake.
        waiting: Requests that wait for it.
        running: Requests that it runs.
        claimed: Seconds for which it has claimed a turn.
        served: Seconds for which it has served in this turn; 0 while it starts or wakes.
        quiet: Seconds since it last had a request.
        claim_step: Priority step of the most urgent request that waits for it; 0 goes first.
        work_step: Of the most urgent one that waits for it or that it runs.
        known: Whether its models are listed while it is at rest; else it needs a turn to be known.
        failed: Whether it was tried and does not start; it is tried again later.
    """

    component: str
    bounds: Bounds
    wanted: int = 0
    by_hand: bool = False
    at_rest: bool = True
    waiting: int = 0
    running: int = 0
    claimed: float = 0.0
    served: float = 0.0
    quiet: float = 0.0
    claim_step: int = 0
    work_step: int = 0
    known: bool = True
    failed: bool = False

    @property
    def claims(self) -> bool:
        """``True`` if it needs a turn."""
        return not self.by_hand and not self.failed and (self.waiting > 0 or not self.known)

    @property
    def order(self) -> tuple[int, float]:
        """The claim with the least is served first."""
        return 0 if self.claimed >= _OLD * self.bounds.turn else self.claim_step, -self.claimed

    @property
    def done(self) -> bool:
        """``True`` if it has nothing to do."""
        return self.known and not self.waiting and not self.running


def next_turn(members: Sequence[Member]) -> tuple[Member, int, ScaledBy] | None:
    """Return whose number changes, to what and why; ``None`` where all stays as it is.

    Args:
        members: All that share one device.
    """
    holders = [one for one in members if one.wanted]
    if len(holders) > 1:  # they had devices of their own until now
        late = [one for one in holders if not one.by_hand]
        return (late[-1], 0, ScaledBy.TURN) if late else None
    claims = [one for one in members if one.claims and not one.wanted]
    if holders:
        return _end(holders[0], min(claims, key=_order, default=None))
    if not claims or not all(one.at_rest for one in members):
        return None
    # By priority, then by age alone: a component with many requests must not keep another one from its turn.
    first = min(claims, key=_order)
    return first, first.bounds.workers, ScaledBy.QUEUE if first.waiting else ScaledBy.START


def _end(holder: Member, first: Member | None) -> tuple[Member, int, ScaledBy] | None:
    """End the turn of one, where it is over; ``first`` waits for the next one."""
    if holder.by_hand:
        return None
    if first is not None and (holder.done or holder.failed or holder.served >= _most(holder, first)):
        return holder, 0, ScaledBy.TURN
    idle = 0 < holder.bounds.idle <= holder.quiet
    return (holder, 0, ScaledBy.IDLE) if holder.done and idle else None


def _most(holder: Member, first: Member) -> float:
    """Seconds for which one may serve, by what it has to do and who waits."""
    step, _ = first.order
    if step > holder.work_step:
        return math.inf
    return holder.bounds.turn * (_LEAST if step < holder.work_step else 1.0)


def _order(member: Member) -> tuple[int, float]:
    return member.order
