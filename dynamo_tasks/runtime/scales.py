"""The numbers of instances, wanted and there, as ``dynamo-tasks scale``, ``status`` and the live page show them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from dynamo_tasks.protocol.instances import ASLEEP
from dynamo_tasks.protocol.scale import Scale
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.registry import Registry
from dynamo_tasks.store.scales import Scales

__all__ = ["scale_row", "scale_rows"]


async def scale_rows(store: Store, namespace: str | None = None) -> list[dict[str, Any]]:
    """One row per component that is deployed by a ``serve``, or of which somebody wants a number.

    Raises:
        ServerUnavailableError: Redis cannot be reached.
    """
    rows = []
    for one in await store.namespaces():
        if namespace not in (None, one):
            continue
        scales, _ = await Scales(store, one).read()
        infos = await Registry(store).instances(one)
        awake = {(info.component, info.lease_id) for info in infos if info.endpoint != ASLEEP}
        ready = Counter(component for component, _ in awake)
        rows += [scale_row(one, scales[name], ready[name]) for name in sorted(scales)]
    return rows


def scale_row(namespace: str, scale: Scale, ready: int) -> dict[str, Any]:
    """Row of one component, as people and scripts see it.

    Args:
        namespace: Its namespace.
        scale: What is wanted.
        ready: Its instances that do not sleep.
    """
    bounds = scale.bounds
    share = sum(fleet.share for fleet in scale.fleets.values())
    return {
        "component": f"{namespace}.{scale.component}",
        "wanted": share if scale.wanted is None else scale.wanted,
        "ready": ready,
        "starting": scale.starting,
        "draining": scale.draining,
        "asleep": scale.asleep,
        "by": "configuration" if scale.wanted is None else str(scale.by),
        "since": scale.since or None,
        "min": bounds.min if bounds else None,
        "max": (bounds.max or None) if bounds else None,
        "idle": (bounds.idle or None) if bounds else None,
        "planner": bounds.planned if bounds else False,
        "share": scale.share or None,
        "turn": bounds.turn if bounds and bounds.share else None,
        "failed": bool(scale.failed),
        "note": scale.note,
    }
