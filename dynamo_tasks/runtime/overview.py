"""The snapshot of a Redis server behind the live page: components with instances and queues, requests at work."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any

from dynamo_tasks.runtime.inspect import gather
from dynamo_tasks.store.ledger.dead import DeadList, DeadRequest
from dynamo_tasks.store.ledger.record import Record, read_record
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.server import Store

__all__ = ["overview"]

_MOST = 100
"""Requests that are shown of each component, running and waiting ones each."""
_MOST_DEAD = 50
"""Dead letters that are shown of each namespace, the newest ones."""


async def overview(lanes: Sequence[Store]) -> dict[str, Any]:
    """Take a snapshot.

    Args:
        lanes: All servers; of those that are away, nothing is shown.

    Returns:
        ``time``, ``memory``, ``components`` (``namespace``, ``name``, ``queued``, ``running``, ``scale``,
        ``instances``), ``requests`` (with the ``owner_key`` of each, no text), ``dead`` (how many used up their
        attempts) and ``dead_requests`` (the newest of these, as the requests).

    Raises:
        ServerUnavailableError: Redis cannot be reached.
    """
    shown = await gather(lanes)
    up = [store for store in lanes if store.commands.connected] or [lanes[0]]
    scales = {row["component"]: row for row in shown["scales"]}
    names = dict.fromkeys([*shown["queued"], *scales])
    rows: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for store, name in product(up, names):
        namespace, _, component = name.partition(".")
        keys = store.keys(namespace)
        wire = await store.commands.wire()
        running, ids = await wire.ask(
            [["SCARD", keys.running(component)], ["SRANDMEMBER", keys.running(component), _MOST]]
        )
        counts[name] += int(running)
        rows += await _records(store, namespace, [raw.decode() for raw in ids])
    for store, namespace in product(up, shown["namespaces"]):
        waiting = await store.commands.execute("ZRANGE", store.keys(namespace).queued, 0, _MOST - 1)
        rows += await _records(store, namespace, [raw.decode() for raw in waiting])
    unique = {row["id"]: row for row in rows}
    return {
        "time": time.time(),
        "redis_url": shown["redis_url"],
        "memory": shown["memory"],
        "components": [_component(name, shown, counts[name], scales.get(name)) for name in names],
        "requests": sorted(unique.values(), key=lambda row: row["created"], reverse=True),
        "dead": sum([await _dead(store, shown["namespaces"]) for store in up]),
        "dead_requests": await _dead_requests(up, shown["namespaces"]),
    }


def _component(
    name: str, shown: dict[str, Any], running: int, scale: dict[str, Any] | None
) -> dict[str, Any]:
    namespace, _, component = name.partition(".")
    mine = [
        row for row in shown["instances"] if (row["namespace"], row["component"]) == (namespace, component)
    ]
    return {
        "namespace": namespace,
        "name": component,
        "queued": shown["queued"].get(name, 0),
        "running": running,
        "scale": scale,
        "instances": mine,
    }


async def _records(store: Store, namespace: str, ids: list[str]) -> list[dict[str, Any]]:
    if not ids:
        return []
    keys = store.keys(namespace)
    wire = await store.commands.wire()
    found = await wire.ask([["HGETALL", keys.record(one)] for one in ids])
    rows = []
    for request_id, raw in zip(ids, found, strict=True):
        if raw:
            with contained("ledger", request_id):
                rows.append(
                    _row(read_record(request_id, namespace, dict(zip(raw[::2], raw[1::2], strict=True))))
                )
    return rows


def _row(record: Record) -> dict[str, Any]:
    return {
        "id": record.id,
        "state": record.state.lower(),
        "endpoint": record.endpoint,
        "created": record.created,
        "started": record.started,
        "attempts": record.attempts,
        "instance": f"{record.owner:x}" if record.owner else None,
        "owner_key": record.owner_key,
    }


async def _dead(store: Store, namespaces: list[str]) -> int:
    if not namespaces:
        return 0
    wire = await store.commands.wire()
    return sum(map(int, await wire.ask([["ZCARD", store.keys(one).dead] for one in namespaces])))


async def _dead_requests(lanes: Sequence[Store], namespaces: list[str]) -> list[dict[str, Any]]:
    lists = [DeadList(store) for store in lanes]
    found = [one for dead in lists for name in namespaces for one in await dead.newest(name, _MOST_DEAD)]
    return [_dead_row(one) for one in sorted(found, key=lambda one: one.died, reverse=True)]


def _dead_row(one: DeadRequest) -> dict[str, Any]:
    record = one.record
    return {
        "id": record.id,
        "namespace": record.namespace,
        "endpoint": record.endpoint,
        "attempts": record.attempts,
        "created": record.created,
        "died": one.died,
        "error": record.error.message if record.error else "",
        "owner_key": record.owner_key,
    }
