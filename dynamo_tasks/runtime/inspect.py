"""The snapshot of a Redis server behind ``dynamo-tasks status``; and the erasure of a namespace."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

from dynamo_tasks.config.host.redis_server import key_prefix
from dynamo_tasks.observe import mask_url
from dynamo_tasks.protocol.instances import InstanceInfo, Load
from dynamo_tasks.runtime.scales import scale_rows
from dynamo_tasks.store.lanes.lane import connected, parse_lanes
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.namespaces import purge_namespace
from dynamo_tasks.store.queue_keys import PRIORITY_SEPARATOR, PRIORITY_STEPS, WAIT_QUEUE_STEP, priority_suffix
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.registry import Registry
from dynamo_tasks.store.streams.memory import memory_of

__all__ = ["gather", "purge", "reach", "snapshot"]

T = TypeVar("T")


def snapshot(url: str, namespace: str | None = None) -> dict[str, Any]:
    """Namespaces (or one), instances and queues, in the shape of ``status --json``.

    Raises:
        ServerUnavailableError: Redis cannot be reached.
    """
    return asyncio.run(
        _with_lanes(url, lambda lanes: gather(lanes, namespace, _drained(url)), all_of_them=False)
    )


def purge(url: str, namespace: str, *, force: bool = False) -> int:
    """Erase a namespace; see :func:`~dynamo_tasks.store.namespaces.purge_namespace`."""

    async def erase(lanes: list[Store]) -> int:
        return sum([await purge_namespace(store, namespace, force=force) for store in lanes])

    return asyncio.run(_with_lanes(url, erase))


def reach(url: str) -> None:
    """See that a Redis server answers, before something waits for it without end.

    Raises:
        ServerUnavailableError: it cannot be reached.
    """
    asyncio.run(_with_lanes(url, _asked, all_of_them=False))


async def _asked(lanes: list[Store]) -> None:
    for store in lanes:
        if store.commands.connected:
            await store.namespaces()


async def _with_lanes(url: str, use: Callable[[list[Store]], Awaitable[T]], *, all_of_them: bool = True) -> T:
    async with connected(url, key_prefix(), all_of_them=all_of_them) as lanes:
        return await use(lanes)


def _drained(url: str) -> set[int]:
    return {number for number, (_, drained) in enumerate(parse_lanes(url), 1) if drained}


async def gather(
    lanes: Sequence[Store], namespace: str | None = None, drained: Collection[int] = ()
) -> dict[str, Any]:
    """Take the snapshot.

    Args:
        lanes: All servers. Instances are on each of them, and are asked for on one that is connected; what waits is
            counted on all that are.
        namespace: The only one; all by default.
        drained: Numbers of lanes that get no new requests.
    """
    up = [store for store in lanes if store.commands.connected] or [lanes[0]]
    first = up[0]
    spaces = {one for store in up for one in await store.namespaces()}
    namespaces = sorted(one for one in spaces if namespace in (None, one))
    instances: list[dict[str, Any]] = []
    counts: list[Counter[str]] = [Counter() for _ in up]
    for one in namespaces:
        rows = await _instances(first, one)
        instances += rows
        serving = {str(row["component"]) for row in rows}
        for store, queued in zip(up, counts, strict=True):
            for component in sorted(serving | await _waiting(store, one)):
                queued[f"{one}.{component}"] = await _queued(store, one, component)
    found = {
        "redis_url": " ".join(mask_url(store.address.url) for store in lanes),
        "memory": (await memory_of(first)).as_dict(),
        "namespaces": namespaces,
        "instances": instances,
        "queued": {name: sum(queued[name] for queued in counts) for name in dict.fromkeys(chain(*counts))},
        "scales": await scale_rows(first, namespace),
    }
    return (
        found
        if len(lanes) == 1
        else {**found, "lanes": await _lanes(lanes, dict(zip(up, counts, strict=True)), drained)}
    )


async def _lanes(
    lanes: Sequence[Store], counts: Mapping[Store, Counter[str]], drained: Collection[int]
) -> list[dict[str, Any]]:
    """A row of each lane: what waits there, and its memory; ``None`` of one that is away."""
    return [
        {
            "lane": number,
            "redis_url": mask_url(store.address.url),
            "state": "away" if store not in counts else "drained" if number in drained else "up",
            "queued": counts[store].total() if store in counts else None,
            "memory": (await memory_of(store)).as_dict() if store in counts else None,
        }
        for number, store in enumerate(lanes, 1)
    ]


async def _instances(store: Store, namespace: str) -> list[dict[str, Any]]:
    registry = Registry(store)
    infos = await registry.instances(namespace)
    leases = list(dict.fromkeys(info.lease_id for info in infos))
    loads = await registry.loads(namespace, leases)
    keys = store.keys(namespace)
    wire = await store.commands.wire()
    left = await wire.ask([["PTTL", keys.lease(lease)] for lease in leases]) if leases else []
    ttls = dict(zip(leases, left, strict=True))
    return [
        _row([info for info in infos if info.lease_id == lease], loads.get(lease, Load()), ttls[lease])
        for lease in leases
    ]


def _row(infos: list[InstanceInfo], load: Load, ttl_ms: int) -> dict[str, Any]:
    first = infos[0]
    return {
        "namespace": first.namespace,
        "component": first.component,
        "endpoints": sorted(info.endpoint for info in infos),
        "instance_id": first.instance_id,
        "host": first.host,
        "protocol": first.version,
        "pid": first.pid,
        "state": load.state.lower(),
        "in_flight": load.in_flight,
        "load": {
            "capacity": load.capacity or first.capacity, "tokens": load.tokens, "running": load.running,
            "waiting": load.waiting, "kv_usage": round(load.kv_usage, 4),
            "prefix_hits": round(load.prefix_hits, 4), "preemptible": load.preemptible,
            "preemptions": load.preemptions,
        },
        "lease": max(0, ttl_ms) / 1000,
        "tokens_per_s": round(load.tokens_per_s, 1),
        "http": first.http,
        "model": first.model.name if first.model else None,
        "system_port": first.extra.get("system_port"),
    }  # fmt: skip


async def _waiting(store: Store, namespace: str) -> set[str]:
    """Components that requests wait for, whether anybody serves them or not; of the oldest thousand."""
    keys = store.keys(namespace)
    ids = [raw.decode() for raw in await store.commands.execute("ZRANGE", keys.queued, 0, 999)]
    if not ids:
        return set()
    wire = await store.commands.wire()
    endpoints = await wire.ask([["HGET", keys.record(request_id), Field.ENDPOINT] for request_id in ids])
    return {endpoint.decode().split(".")[1] for endpoint in endpoints if endpoint}


async def _queued(store: Store, namespace: str, component: str) -> int:
    queue = f"{store.prefix}{namespace}|{component}"
    wire = await store.commands.wire()
    lengths = await wire.ask([["LLEN", queue + priority_suffix(step)] for step in PRIORITY_STEPS])
    lengths.append(await wire.execute("LLEN", f"{queue}{PRIORITY_SEPARATOR}{WAIT_QUEUE_STEP}"))
    return sum(int(length) for length in lengths)
