"""A trace over fleets of several planners: what share of requests met the targets, and what that took."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from benchmarks.arima import register
from benchmarks.fleet_watch import inter_token, time_to_first
from benchmarks.scaled_fleet import Action, ScaledFleet, ScaledOutcome
from benchmarks.traces import TracedRequest
from benchmarks.virtual_fleet import Arrival, Dispatcher, Fleet, FleetArgs
from dynamo_tasks.planner import ForwardPass, make_policy
from dynamo_tasks.planner.dynamo import SlaPolicy

__all__ = ["Scenario", "Targets", "comparison", "flaps", "planned", "settings_of", "verdict"]

_FLAP = 180.0
"""Seconds within which a change in the other direction is a flap: a start and a cool-down were for nothing."""


class Targets(NamedTuple):
    """What a request shall keep, seconds."""

    ttft: float = 0.5
    itl: float = 0.05

    def met(self, arrival: Arrival) -> bool:
        """Return whether a request kept both."""
        return time_to_first(arrival) <= self.ttft and inter_token(arrival) <= self.itl


class Scenario(NamedTuple):
    """What all planners of a comparison have in common.

    Attributes:
        requests: The trace.
        args: The fleet; its ``workers`` are there at the begin, of a fixed fleet all.
        routing: Who gets which request.
        targets: What requests shall keep.
        most: Workers.
        start_up: Seconds from the decision to a worker that takes requests.
    """

    requests: Sequence[TracedRequest]
    args: FleetArgs
    routing: Callable[[Fleet], Dispatcher]
    targets: Targets = Targets()
    most: int = 16
    start_up: float = 60.0


def comparison(scenario: Scenario, specs: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Replay the trace under one planner after the other; gives the figures of each."""
    register()
    for spec in specs:
        began = time.monotonic()
        outcome = planned(scenario, settings_of(spec, scenario))
        took = time.monotonic() - began
        yield {"planner": spec, **verdict(outcome, scenario.targets), "took_s": took}


def settings_of(spec: str, scenario: Scenario) -> dict[str, Any]:
    """Settings of a planner as the command line names it.

    Args:
        spec: A policy, and what it shall know besides: ``load``, ``fixed:8``, ``load:cool_down=30:step=4``.
        scenario: Has the targets and the bounds.
    """
    name, *rest = spec.split(":")
    given: dict[str, Any] = {"policy": name, "max": scenario.most}
    if name == "fixed":
        return {**given, "workers": int(rest[0]), "max": max(scenario.most, int(rest[0]))}
    if name == "load":
        given["start_up"] = scenario.start_up
    if name not in ("dynamo-throughput", "dynamo-latency"):
        given |= scenario.targets._asdict()
    for pair in rest:
        key, _, value = pair.partition("=")
        given[key] = msgspec.yaml.decode(value)
    return given


def planned(scenario: Scenario, settings: dict[str, Any]) -> ScaledOutcome:
    """Replay a trace under a planner; a fixed fleet is there from the begin."""
    args, policy = scenario.args, make_policy(settings)
    if settings["policy"] == "fixed":
        args = args._replace(workers=settings["workers"])
    if isinstance(policy, SlaPolicy):
        policy.sweep(_sweep(args))
    return ScaledFleet(args, policy, scenario.start_up).replay(scenario.requests, scenario.routing)


def _sweep(args: FleetArgs) -> Iterator[ForwardPass]:
    """Steps over a grid of loads: what Dynamo measures before a deployment."""
    tokens = args.blocks * args.block_size
    for prefill in (0, 1024, 2048, 4096, 8192):
        for usage in (0.0, 0.1, 0.2, 0.3, 0.4):
            decodes = int(usage * tokens / 8192)
            if prefill or decodes:
                seconds = args.timing(prefill, decodes, usage)
                yield ForwardPass(
                    seconds=seconds, prefill_tokens=prefill, prefills=bool(prefill),
                    decode_kv_tokens=8192 * decodes, decodes=decodes,
                )  # fmt: skip


def flaps(actions: Sequence[Action]) -> int:
    """Changes that undid one of the last minutes."""
    pairs = itertools.pairwise(actions)
    return sum(one.change * two.change < 0 and two.at - one.at <= _FLAP for one, two in pairs)


def verdict(outcome: ScaledOutcome, targets: Targets) -> dict[str, float]:
    """The figures of a run."""
    arrivals = outcome.arrivals
    first = sorted(map(time_to_first, arrivals))
    count = len(arrivals)
    return {
        "attained": sum(map(targets.met, arrivals)) / count,
        "ttft_met": sum(one <= targets.ttft for one in first) / count,
        "itl_met": sum(inter_token(one) <= targets.itl for one in arrivals) / count,
        "ttft_p50_ms": 1000 * first[count // 2],
        "ttft_p99_ms": 1000 * first[int(0.99 * count)],
        "worker_hours": outcome.worker_seconds / 3600,
        "mean_workers": outcome.worker_seconds / outcome.seconds,
        "most": outcome.most,
        "actions": len(outcome.actions),
        "flaps": flaps(outcome.actions),
    }
