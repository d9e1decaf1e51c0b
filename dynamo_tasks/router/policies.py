"""Choice of an instance over a snapshot of those that are there. Pure: no I/O, no clock.

A snapshot is old by the time that it is used. ``power_of_two`` bears that best: of two random instances the
less loaded one, so that not everybody runs to the one that was idle a moment ago
(Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import ConfigError, NoInstancesError
from dynamo_tasks.protocol.instances import Load

__all__ = [
    "POLICIES",
    "Candidate",
    "Direct",
    "LeastLoaded",
    "PowerOfTwo",
    "Random",
    "RoundRobin",
    "RoutingPolicy",
    "make_router",
    "pressure",
]


class Candidate(NamedTuple):
    """An instance that could take the request: its lease id and what it last reported of its load."""

    instance_id: int
    load: Load


class RoutingPolicy(Protocol):
    """A policy, with what it must remember between choices."""

    def choose(self, candidates: Sequence[Candidate], *, instance_id: int | None = None) -> Candidate:
        """Choose one.

        Args:
            candidates: The live instances, in any order.
            instance_id: The one that is wanted; only ``direct`` asks for it.

        Raises:
            NoInstancesError: there is none, or not the one that is wanted.
        """


def pressure(load: Load) -> tuple[float, int, float]:
    """Order of instances by load, the least first.

    Returns:
        Used share of the slots (the bare number of requests where the capacity is not known), requests that
        wait inside the engine, used share of the KV cache.
    """
    return load.in_flight / (load.capacity or 1), load.waiting, load.kv_usage


def _require(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    if not candidates:
        raise NoInstancesError("no live instance serves the endpoint")
    return candidates


class Random:
    """Any instance, all as likely."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()

    def choose(self, candidates: Sequence[Candidate], *, instance_id: int | None = None) -> Candidate:
        """Choose one; see :meth:`RoutingPolicy.choose`."""
        return self._rng.choice(_require(candidates))


class RoundRobin:
    """One after the other, by id; instances that come and go don't upset the turn of the rest."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._last = -1

    def choose(self, candidates: Sequence[Candidate], *, instance_id: int | None = None) -> Candidate:
        """Choose the one with the next higher id; see :meth:`RoutingPolicy.choose`."""
        _require(candidates)
        after = [one for one in candidates if one.instance_id > self._last]
        chosen = min(after or candidates, key=lambda one: one.instance_id)
        self._last = chosen.instance_id
        return chosen


class PowerOfTwo:
    """The less loaded of two random instances."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()

    def choose(self, candidates: Sequence[Candidate], *, instance_id: int | None = None) -> Candidate:
        """Choose one; see :meth:`RoutingPolicy.choose`."""
        two = self._rng.sample(_require(candidates), min(2, len(candidates)))
        return min(two, key=lambda one: pressure(one.load))


class LeastLoaded:
    """The least loaded instance; a random one of those that are equal."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()

    def choose(self, candidates: Sequence[Candidate], *, instance_id: int | None = None) -> Candidate:
        """Choose one; see :meth:`RoutingPolicy.choose`."""
        least = min(pressure(one.load) for one in _require(candidates))
        return self._rng.choice([one for one in candidates if pressure(one.load) == least])


class Direct:
    """The instance that the caller names."""

    def __init__(self, rng: random.Random | None = None) -> None:
        pass

    def choose(self, candidates: Sequence[Candidate], *, instance_id: int | None = None) -> Candidate:
        """Choose the one with ``instance_id``; see :meth:`RoutingPolicy.choose`.

        Raises:
            ConfigError: no ``instance_id`` is given.
            NoInstancesError: it is gone; lists those that live.
        """
        if instance_id is None:
            raise ConfigError("the direct policy needs an instance_id")
        for one in candidates:
            if one.instance_id == instance_id:
                return one
        live = ", ".join(sorted(f"{one.instance_id:x}" for one in candidates)) or "none"
        raise NoInstancesError(f"instance {instance_id:x} does not live any more (live: {live})")


POLICIES: dict[str, Callable[[random.Random | None], RoutingPolicy]] = {
    "random": Random,
    "round_robin": RoundRobin,
    "power_of_two": PowerOfTwo,
    "least_loaded": LeastLoaded,
    "direct": Direct,
}
"""Policies by the name that users write."""


def make_router(name: str, rng: random.Random | None = None) -> RoutingPolicy:
    """Make a policy.

    Args:
        name: One of :data:`POLICIES`; dashes count as underscores.
        rng: Source of randomness, for repeatable choices.

    Raises:
        ConfigError: unknown name; names the nearest.

    Example:
        >>> make_router("round_robin").choose([Candidate(7, Load())]).instance_id
        7
    """
    policy = POLICIES.get(str(name).replace("-", "_"))
    if policy is None:
        raise ConfigError(f"no routing policy {name!r}{suggest(str(name), POLICIES)}")
    return policy(rng)
