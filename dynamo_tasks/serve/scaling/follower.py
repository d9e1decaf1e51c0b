"""The part of ``serve`` that keeps as many processes as are wanted, and decides that where nobody else does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from dynamo_tasks.config.host.redis_lanes import split_lanes
from dynamo_tasks.config.host.redis_server import key_prefix
from dynamo_tasks.errors import DynamoError
from dynamo_tasks.protocol.scale import Fleet, Scale
from dynamo_tasks.runtime.control import send_command
from dynamo_tasks.serve.processes.spec import Deployment
from dynamo_tasks.serve.scaling.fleet import ManagedFleet
from dynamo_tasks.serve.scaling.leader import ScaleLeader
from dynamo_tasks.serve.scaling.planner import Scrape
from dynamo_tasks.serve.scaling.shares import share_out
from dynamo_tasks.serve.scaling.view import NamespaceView, look
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.pubsub import Channels
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.scales import Scales

__all__ = ["ScaleFollower"]

_EVERY_S = 0.3
_REPORT_S = 2.0
_TIDY_S = 60.0


class ScaleFollower:
    """Follows what is wanted of the components that one ``serve`` deploys.

    Args:
        url: Redis; of several lanes it is the first one that is asked.
        deployments: The components.
        say: Tells people what has changed.
        scrape: Gives what planners see of latencies.
    """

    def __init__(
        self, url: str, deployments: Sequence[Deployment], say: Callable[[str], None], scrape: Scrape
    ):
        self._say = say
        self._said: dict[str, str] = {}
        self.name = f"{os.uname().nodename}:{os.getpid()}"
        self._store = Store(split_lanes(url)[0], prefix=key_prefix())
        self._channels = Channels(self._store)
        ordered = sorted(deployments, key=lambda one: one.namespace)
        self._deployments = {space: [*of] for space, of in groupby(ordered, lambda one: one.namespace)}
        self._leaders = {
            space: ScaleLeader(self._store, space, self.name, ones, scrape)
            for space, ones in self._deployments.items()
        }
        self._fleets: dict[str, ManagedFleet] = {}
        self._deployed: set[str] = set()
        self._told: dict[str, tuple[float, dict[str, Fleet]]] = {}
        self._tidied_at = time.monotonic()

    async def prepare(self) -> dict[str, int]:
        """Connect; returns how many processes of each service are wanted here: what is configured, if Redis is away."""
        shares = {one.service: one.workers for ones in self._deployments.values() for one in ones}
        with contextlib.suppress(DynamoError):
            await self._store.start()
            for namespace in self._deployments:
                shares |= self._shares(namespace, *await self._decided(namespace))
        return shares

    async def run(self, fleets: Sequence[ManagedFleet]) -> None:
        """Follow until it is cancelled."""
        self._fleets = {one.deployment.service: one for one in fleets}
        while True:
            for namespace in self._deployments:
                # What Redis cannot say now, it says at the next look; what runs, runs on.
                try:
                    with contextlib.suppress(DynamoError), contained("registry", f"scale of {namespace}"):
                        await self._follow(namespace)
                except Exception as error:  # noqa: BLE001 - no mistake in here may leave what runs unattended
                    self._complain(namespace, f"{type(error).__name__}: {error}")
            await asyncio.sleep(_EVERY_S)

    async def close(self) -> None:
        """Leave: others may have the share of this one."""
        for fleet in self._fleets.values():
            await fleet.close()
        with contextlib.suppress(DynamoError, TimeoutError):
            async with asyncio.timeout(1.0):
                for leader in self._leaders.values():
                    await leader.leave()
        await self._channels.close()
        await self._store.close()

    async def command(
        self, namespace: str, lease: int, op: str, arguments: Mapping[str, Any], timeout: float
    ) -> str:
        """Send a command to an instance; returns its state once that is carried out.

        Raises:
            DynamoError: it was not, as far as is known.
        """
        return await send_command(
            self._store, self._channels, namespace, lease, op, arguments, timeout=timeout
        )

    async def _follow(self, namespace: str) -> None:
        view, scales = await self._decided(namespace)
        shares = self._shares(namespace, view, scales)
        for one in self._deployments[namespace]:
            scale, seen = scales.get(one.component), view.of(one.component)
            off = scale is not None and scale.off
            self._fleets[one.service].shrink(shares[one.service], seen.mine(), seen.pids(), off=off)
            self._tell(f"{namespace}.{one.component}", scale)
        for one in self._deployments[namespace]:
            fleet = self._fleets[one.service]
            if fleet.lacks and await self._may_grow(one, fleet, view):
                fleet.grow(view.of(one.component).pids())
        await self._report(namespace, view)

    async def _may_grow(self, one: Deployment, fleet: ManagedFleet, view: NamespaceView) -> bool:
        """Return whether processes may be started or woken: at most one component of a device is awake at a time."""
        share = one.bounds.share if one.bounds is not None else ""
        if not share:
            return True
        for other in self._deployments[one.namespace]:
            beside = other.bounds is not None and other.bounds.share == share and other is not one
            if beside and self._fleets[other.service].report(view.now).awake:
                return False
        scales = Scales(self._store, one.namespace)
        return await scales.occupy(one.component, self.name, fleet.intent(view.now))

    async def _decided(self, namespace: str) -> tuple[NamespaceView, dict[str, Scale]]:
        await self._deploy(namespace)
        view = await look(self._store, namespace, [one.component for one in self._deployments[namespace]])
        return view, await self._leaders[namespace].decide(view)

    async def _deploy(self, namespace: str) -> None:
        """Say once what the bounds are, and which models there are before any of them has run."""
        if namespace in self._deployed:
            return
        scales = Scales(self._store, namespace)
        for one in self._deployments[namespace]:
            await scales.deploy(one.component, one.bounds)
            if one.bounds is None or one.bounds.min > 0:
                await scales.keep_cards(one.component, [])
            elif one.cards:
                await scales.keep_cards(one.component, one.cards)
        self._deployed.add(namespace)

    def _shares(self, namespace: str, view: NamespaceView, scales: Mapping[str, Scale]) -> dict[str, int]:
        """Processes that each service is to have here."""
        return {
            one.service: self._share(one, scales.get(one.component), view)
            for one in self._deployments[namespace]
        }

    def _share(self, one: Deployment, scale: Scale | None, view: NamespaceView) -> int:
        if scale is None or scale.wanted is None:
            return 0 if one.bounds is not None and one.bounds.share else one.workers
        fleet = self._fleets.get(one.service)
        mine = fleet.report(view.now) if fleet is not None else Fleet(at=view.now)
        others = {name: other for name, other in scale.fleets.items() if not _is_gone(name)}
        return share_out(scale.wanted, {**others, self.name: mine})[self.name]

    def _complain(self, namespace: str, problem: str) -> None:
        if self._said.get(f"@{namespace}") != problem:
            self._say(f"{namespace}: cannot be looked after now: {problem}")
        self._said[f"@{namespace}"] = problem

    def _tell(self, name: str, scale: Scale | None) -> None:
        text = "" if scale is None or scale.wanted is None else f"{scale.wanted} wanted ({scale.by})"
        if text != self._said.get(name, ""):
            self._say(f"{name}: {text or 'as configured'}")
        self._said[name] = text

    async def _report(self, namespace: str, view: NamespaceView) -> None:
        """Tell what is here, at each change and from time to time."""
        fleets = {
            one.component: self._fleets[one.service].report(view.now) for one in self._deployments[namespace]
        }
        now, (told_at, told) = time.monotonic(), self._told.get(namespace, (0.0, {}))
        if now - told_at >= _REPORT_S or any(_differs(fleets[one], told.get(one)) for one in fleets):
            await Scales(self._store, namespace).report(self.name, fleets)
            self._told[namespace] = now, fleets
        if now - self._tidied_at >= _TIDY_S:
            self._tidied_at = now
            await Scales(self._store, namespace).tidy(view.now)


def _is_gone(name: str) -> bool:
    """Return whether a ``serve`` of this machine, killed a moment ago, has said that: nobody waits until it is old."""
    host, _, pid = name.rpartition(":")
    if host != os.uname().nodename:
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def _differs(new: Fleet, old: Fleet | None) -> bool:
    if old is None:
        return True
    old.at = new.at
    return new != old
