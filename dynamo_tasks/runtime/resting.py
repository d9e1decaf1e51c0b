"""Requests of components that may have no instance: whether they are taken, and why they wait."""

from __future__ import annotations

import time

from dynamo_tasks.errors import DeadlineUnreachableError, NoInstancesError, NotStartedError
from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.runtime.supervision.watcher import Watcher
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.ledger.submission import report_rejected
from dynamo_tasks.store.redis.server import Store

__all__ = ["check_taken", "model_state", "needed", "place_of"]

_TRY_AGAIN_S = 10.0


def model_state(watcher: Watcher, info: InstanceInfo) -> str:
    """The state of the model of a registration; empty where it must have an instance at all times."""
    scale = watcher.scales.get(info.component)
    rests = info in watcher.resting
    if not rests and (scale is None or not scale.rests):
        return ""
    if not rests:
        return "ready"
    if scale is not None and scale.failed:
        return "unavailable"
    if scale is not None and (scale.wanted or scale.starting):
        return "starting"
    return "asleep" if info.component in watcher.asleep else "idle"


def check_taken(watcher: Watcher, endpoint: EndpointId, deadline: float) -> None:
    """Refuse a request that nobody would serve, or not in time; no instance of the endpoint is there.

    Args:
        watcher: Of the endpoint's namespace.
        endpoint: Who shall serve it.
        deadline: Unix seconds; 0 = none.

    Raises:
        NoInstancesError: no instance is there, and none is started for requests.
        NotStartedError: none can be started.
        DeadlineUnreachableError: a start takes longer.
    """
    scale = watcher.scales.get(endpoint.component)
    if not watcher.takes(endpoint):
        by_hand = " (`dynamo-tasks scale` has it at 0)" if scale is not None and scale.off else ""
        # A queue takes messages whether it is served or not: the request would wait until an instance comes.
        raise NoInstancesError(f"no instance serves {endpoint}{by_hand}", retry_after=1.0)
    if scale is None:
        return
    if scale.failed:
        raise NotStartedError(
            f"no worker of {endpoint.component} can be started; `dynamo-tasks status` says why",
            retry_after=_TRY_AGAIN_S,
        )
    if deadline and not scale.starting and time.time() + scale.startup > deadline:
        report_rejected(endpoint, DeadlineUnreachableError.code)
        raise DeadlineUnreachableError(
            f"no worker of {endpoint.component} runs, and a start takes {scale.startup:.1f} s, which is past the "
            "deadline of the request", retry_after=1.0,
        )  # fmt: skip


def _why_waiting(watcher: Watcher | None, component: str, begins_in: float) -> str:
    if begins_in > 0:
        return f"it may begin in {begins_in:.0f} s"
    if watcher is None or any(info.component == component for info in watcher.instances):
        return "all workers are busy"
    scale = watcher.scales.get(component)
    if scale is None:
        return "no worker runs"
    if scale.off:
        return "the component is scaled to 0 by hand"
    if scale.failed:
        return "no worker can be started; it is tried again"
    if scale.share and not scale.wanted:
        return "the model waits for its turn: its device is used by another model"
    if scale.pauses:
        return "its worker hung while it started; another one is started soon"
    if scale.note:
        return "a worker is wanted, and waits for a free device"
    return "the model is starting: no worker runs yet" if scale.rests or scale.wanted else "no worker runs"


def needed(watcher: Watcher, component: str, configured: int) -> int:
    """The number of instances without which a component is not ready: fewer, where fewer are wanted."""
    scale = watcher.scales.get(component)
    return configured if scale is None or scale.wanted is None else min(configured, scale.wanted)


async def place_of(
    store: Store, namespace: str, request_id: str, watcher: Watcher | None
) -> tuple[int, str] | None:
    """Find where a request stands, from 1, and why it waits; ``None`` where it does not wait."""
    keys = store.keys(namespace)
    found = await script("place").run(
        store.commands, [keys.record(request_id)], base=keys.base, id=request_id
    )
    if not found:
        return None
    place, component, begins_ms = found
    return int(place), _why_waiting(watcher, component.decode(), int(begins_ms) / 1000)
