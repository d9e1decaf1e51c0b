"""Components whose number of processes may change: their bounds, and their models before the first start."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from dynamo_tasks.config import ServiceSettings
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.planner import Policy, make_policy
from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.protocol.scale import Bounds
from dynamo_tasks.sdk import DynamoService
from dynamo_tasks.serve.processes.spec import Deployment, ProcessSpec

__all__ = ["bounds_of", "deployment"]

_IDLE_S = 300.0
"""Seconds without requests after which a component with ``min: 0`` has no instance, where nothing else is said."""
_TURN_S = 60.0
"""Seconds that a model may serve while requests wait for another one that shares its device."""
_START_S = 900.0
"""Seconds that a start may take where others wait for the device: large models load for minutes, none for longer."""


def bounds_of(settings: ServiceSettings) -> Bounds | None:
    """The bounds that a service's ``scale`` gives; ``None`` where it has none.

    Raises:
        ConfigError: what takes turns must be able to have no instance, and no planner says how many it has.
    """
    given = settings.scale
    if not given and settings.planner is None:
        return None
    _check_turns(settings)
    least, most = int(given.get("min", 1)), int(given.get("max", 0))
    idle = float(given.get("idle", _IDLE_S if least == 0 else 0.0))
    bounds = Bounds(min=least, max=most, idle=idle, planned=settings.planner is not None)
    return Bounds(
        min=least, max=most, idle=idle, planned=bounds.planned, workers=max(1, bounds.clamp(settings.workers)),
        share=given.get("share", ""), turn=float(given.get("turn", _TURN_S)), sleep=given.get("sleep", 1),
        start=float(given.get("start", _START_S if "share" in given else 0.0)),
    )  # fmt: skip


def _check_turns(settings: ServiceSettings) -> None:
    given, name = settings.scale, settings.name
    if "share" not in given:
        if useless := [key for key in ("turn", "sleep") if key in given]:
            raise ConfigError(
                f"{name}: scale.{useless[0]} is for models that share a device: give scale.share"
            )
        return
    if given.get("min", 1) != 0:
        raise ConfigError(f"{name}: what shares a device by turns (scale.share) needs scale.min: 0")
    if settings.planner is not None:
        raise ConfigError(f"{name}: what shares a device by turns (scale.share) can have no planner")


def deployment(
    service: DynamoService[Any], settings: ServiceSettings, spec: Callable[[int], ProcessSpec]
) -> Deployment:
    """A component, as ``serve`` starts and drains its processes.

    Args:
        service: Of the graph; configured.
        settings: Its settings.
        spec: Gives its n-th process.

    Raises:
        ConfigError: there is no planner policy or setting of that name.
    """
    bounds = bounds_of(settings)
    if settings.scale.get("max") and settings.workers > settings.scale["max"]:
        raise ConfigError(
            f"{service.name}: {settings.workers} workers are configured, and scale.max is {settings.scale['max']}"
        )
    return Deployment(
        service=service.name, namespace=settings.namespace, component=settings.component, bounds=bounds,
        workers=settings.workers if bounds is None else bounds.clamp(settings.workers), spec=spec,
        cards=_cards(service) if bounds is not None and bounds.min == 0 else (), policy=_policy(settings, bounds),
    )  # fmt: skip


def _policy(settings: ServiceSettings, bounds: Bounds | None) -> Callable[[], Policy] | None:
    """The policy of a service's ``planner``, within its ``scale``; the last worker is not its affair, but idling's.

    Raises:
        ConfigError: there is no policy or setting of that name.
    """
    if settings.planner is None or bounds is None:
        return None
    own = {"min": max(1, bounds.min), **({"max": bounds.max} if bounds.max else {})}
    make = partial(make_policy, {**own, **settings.planner})
    make()
    return make


def _cards(service: DynamoService[Any]) -> tuple[InstanceInfo, ...]:
    """Registrations of its models, where it knows them without an engine that has loaded one."""
    known = getattr(service.inner, "known_card", None)
    card = known() if callable(known) else None
    if card is None:
        return ()
    return tuple(
        InstanceInfo(
            endpoint=one.name, component=one.id.component, namespace=one.id.namespace, lease_id=0, transport={},
            started=time.time(), streaming=one.is_stream, model=card,
        )
        for one in service.get_dynamo_endpoints().values()
    )  # fmt: skip
