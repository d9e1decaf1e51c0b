"""The decisions for a namespace: one ``serve`` makes them at a time, and writes how many instances are wanted."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dynamo_tasks.errors import NotStartedError
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.events import End, ErrorInfo
from dynamo_tasks.protocol.scale import Scale, ScaledBy
from dynamo_tasks.protocol.states import State
from dynamo_tasks.serve.processes.spec import Deployment
from dynamo_tasks.serve.scaling.demand import Demand, next_wanted
from dynamo_tasks.serve.scaling.planner import ComponentPlanner, Scrape
from dynamo_tasks.serve.scaling.turns import Member, next_turn
from dynamo_tasks.serve.scaling.view import ComponentView, NamespaceView
from dynamo_tasks.store.ledger.ledger import Ledger
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.scales import Scales

__all__ = ["ScaleLeader"]

_MOST_ENDED = 200
"""Requests that one look ends, where nothing can be started for them."""


class ScaleLeader:
    """Decides for the components of one namespace that this ``serve`` deploys.

    Args:
        store: Redis.
        namespace: Its name.
        name: Of this ``serve``.
        deployments: Those in this namespace.
        scrape: Gives what planners see of latencies.
    """

    def __init__(
        self, store: Store, namespace: str, name: str, deployments: Sequence[Deployment], scrape: Scrape
    ):
        self._scales = Scales(store, namespace)
        self._keys, self._commands = store.keys(namespace), store.commands
        self._ledger = Ledger(store)
        self._namespace = namespace
        self._name = name
        self._deployments = deployments
        self._without_model: set[str] = set()
        self._shares = sorted({one.bounds.share for one in deployments if one.bounds is not None} - {""})
        self._units = [
            one.component for one in deployments if one.bounds is not None and not one.bounds.share
        ]
        self._units += [f"={share}" for share in self._shares]
        self._activity: defaultdict[str, _Activity] = defaultdict(_Activity)
        self._planners = {
            one.component: ComponentPlanner(one, one.policy(), scrape)
            for one in deployments
            if one.policy is not None
        }

    async def decide(self, view: NamespaceView) -> dict[str, Scale]:
        """Write what is wanted from now on, unless another ``serve`` decides; returns what stands then."""
        scales = dict(view.scales)
        # At each look: where this one hung for a while, another `serve` decides by now.
        led = await self._scales.lead(self._name, self._units)
        for one in self._deployments:
            if one.bounds is None or one.bounds.share or one.component not in led:
                continue
            scale = scales.setdefault(one.component, Scale(one.component, bounds=one.bounds, fleets={}))
            await self._decide(one, scale, view.of(one.component))
        for share in self._shares:
            if f"={share}" in led:
                await self._take_turns([one for one in scales.values() if one.share == share], view)
        return scales

    async def _take_turns(self, scales: Sequence[Scale], view: NamespaceView) -> None:
        """Decide for all that share one device, whichever ``serve`` deploys them."""
        by_name = {one.component: one for one in scales}
        members = [self._member(one, view) for one in scales]
        if len([one for one in members if one.waiting or one.running]) > 1:
            members = await self._with_steps(members)
        decided = next_turn(members)
        if decided is not None:
            member, wanted, by = decided
            await self._want(by_name[member.component], wanted, by, member.waiting)
        for member in members:
            scale = by_name[member.component]
            if scale.failed and member.waiting and not view.of(member.component).instances:
                await self._end_waiting(scale.component, scale.failed)

    async def _with_steps(self, members: list[Member]) -> list[Member]:
        """Add the priorities of what waits and runs: they matter where several have something to do."""
        steps = await self._scales.steps([one.component for one in members])
        return [
            replace(
                one, claim_step=_claim_step(one, steps[one.component][0]), work_step=min(steps[one.component])
            )
            for one in members
        ]

    def _member(self, scale: Scale, view: NamespaceView) -> Member:
        assert scale.bounds is not None
        seen, activity = view.of(scale.component), self._activity[scale.component]
        quiet = activity.quiet(seen)
        wanted = scale.wanted or 0
        known = self._is_known(scale.component, seen)
        claims = bool(seen.waiting) or not known
        return Member(
            component=scale.component, bounds=scale.bounds, wanted=wanted,
            by_hand=scale.by is ScaledBy.HAND and scale.wanted is not None,
            at_rest=not scale.awake and len(seen.leases) <= scale.asleep,
            waiting=seen.waiting, running=seen.running, quiet=quiet, known=known, failed=scale.pauses,
            claimed=activity.claimed(claims and not wanted, seen.oldest_wait, view.now - scale.since),
            served=activity.served(wanted > 0, seen.serves),
        )  # fmt: skip

    async def _decide(self, one: Deployment, scale: Scale, seen: ComponentView) -> None:
        assert one.bounds is not None
        quiet = self._activity[one.component].quiet(seen)
        planner = self._planners.get(one.component)
        planned = await planner.wanted(seen, scale) if planner is not None and scale.wanted else None
        demand = Demand(
            waiting=seen.waiting,
            running=seen.running,
            quiet=quiet,
            known=self._is_known(one.component, seen),
            planned=planned,
        )
        decided = next_wanted(scale, one.bounds, demand)
        if decided is not None:
            await self._want(scale, *decided, seen.waiting)
        if scale.failed and seen.waiting and not seen.instances:
            await self._end_waiting(one.component, scale.failed)

    def _is_known(self, component: str, seen: ComponentView) -> bool:
        """Return whether frontends know what they must while it is at zero: nothing, where it has no model."""
        if seen.serves and not any(one.model for one in seen.instances):
            self._without_model.add(component)
        return seen.known or component in self._without_model

    async def _want(self, scale: Scale, wanted: int, by: ScaledBy, waiting: int) -> None:
        if await self._scales.want(scale.component, wanted, by, lead=self._name):
            event(
                "scale.wanted", component=f"{self._namespace}.{scale.component}", wanted=wanted, before=scale.wanted,
                by=by, waiting=waiting,
            )  # fmt: skip
            scale.wanted, scale.by = wanted, by

    async def _end_waiting(self, component: str, why: str) -> None:
        """End requests that somebody waits for, and no worker will ever take; those in the background wait on."""
        error = ErrorInfo.of(NotStartedError(f"no worker of {component} can be started: {why}"))
        end = End(State.FAILED, "not_started", error=error)
        waiting = await self._commands.execute("SMEMBERS", self._keys.waiting(component))
        # Some at a time: the next look goes on.
        for raw in waiting[:_MOST_ENDED]:
            await self._ledger.cancel(self._namespace, raw.decode(), end=end, guard="awaited")

    async def leave(self) -> None:
        """Decide no more."""
        await self._scales.leave(self._name, [one.component for one in self._deployments], self._units)


def _claim_step(member: Member, waiting: int) -> int:
    # A model that nobody knows yet is waited for by all.
    return waiting if member.known else 0


class _Activity:
    """When a component last had a request; since when it has claimed its turn, and served in it."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._claims_since = self._serves_since = 0.0
        self._taken: Mapping[int, int] = {}

    def quiet(self, seen: ComponentView) -> float:
        """Seconds since then."""
        taken = {lease: load.taken for lease, load in seen.loads.items()}
        # A request may come and end between two looks: instances count what they take.
        came = any(count > self._taken.get(lease, 0) for lease, count in taken.items())
        if seen.waiting or seen.running or came:
            self._last = time.monotonic()
        self._taken = taken
        return time.monotonic() - self._last

    def claimed(self, claims: bool, oldest_wait: float, rested: float) -> float:
        """Seconds for which it has claimed a turn.

        Args:
            claims: Whether it does.
            oldest_wait: Seconds for which its oldest request has waited; 0 = not known.
            rested: Seconds since its last turn ended.
        """
        if not claims:
            self._claims_since = 0.0
            return 0.0
        now = time.monotonic()
        self._claims_since = self._claims_since or now
        return min(max(now - self._claims_since, oldest_wait), rested)

    def served(self, wanted: bool, serves: bool) -> float:
        """Seconds since it began to serve in its turn; those in which it is started once more count, too.

        Args:
            wanted: Whether it is its turn.
            serves: Whether it serves now.
        """
        if not wanted:
            self._serves_since = 0.0
        elif serves and not self._serves_since:
            self._serves_since = time.monotonic()
        return time.monotonic() - self._serves_since if self._serves_since else 0.0
