"""Policies by the name that users write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.planner.dynamo import DynamoSettings, SlaPolicy, ThresholdPolicy
from dynamo_tasks.planner.fixed import FixedPolicy
from dynamo_tasks.planner.load import LoadPolicy
from dynamo_tasks.planner.policy import Policy
from dynamo_tasks.planner.settings import FixedSettings, LoadSettings, read_settings

__all__ = ["POLICIES", "make_policy"]


def _thresholds(target: str) -> Callable[[Mapping[str, Any]], Policy]:
    return lambda given: ThresholdPolicy(
        read_settings(DynamoSettings, {**given, "optimization_target": target})
    )


def _sla(given: Mapping[str, Any]) -> Policy:
    return SlaPolicy(read_settings(DynamoSettings, {**given, "optimization_target": "sla"}))


def _sla_load(given: Mapping[str, Any]) -> Policy:
    parts = {"enable_load_scaling": True, "enable_throughput_scaling": False}
    return _sla({**parts, **given})


POLICIES: dict[str, Callable[[Mapping[str, Any]], Policy]] = {
    "load": lambda given: LoadPolicy(read_settings(LoadSettings, given)),
    "fixed": lambda given: FixedPolicy(read_settings(FixedSettings, given)),
    "dynamo-throughput": _thresholds("throughput"),
    "dynamo-latency": _thresholds("latency"),
    "dynamo-sla": _sla,
    "dynamo-load": _sla_load,
}
"""What makes a policy of its settings, by name."""


def make_policy(given: Mapping[str, Any]) -> Policy:
    """Make the policy that a ``planner:`` mapping asks for.

    Args:
        given: ``policy`` (its name; ``load`` if there is none) and that policy's settings.

    Raises:
        ConfigError: an unknown policy or setting (names the nearest), or a value that is not allowed.

    Example:
        >>> make_policy({"policy": "fixed", "workers": 3}).wanted(Observation(time=0.0))
        3
    """
    settings = dict(given)
    name = settings.pop("policy", "load")
    make = POLICIES.get(str(name).replace("_", "-"))
    if make is None:
        raise ConfigError(f"no planner policy {name!r}{suggest(str(name), POLICIES)}")
    return make(settings)
