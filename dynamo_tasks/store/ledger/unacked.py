"""Unacknowledged messages of a dead instance: of plain tasks, noted by kombu under its lease.

Messages of endpoints are noted nowhere but in the ledger.
"""

from __future__ import annotations

from typing import Any

import msgspec

from dynamo_tasks.store.keys import Keys
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.queue_keys import PRIORITY_SEPARATOR, priority_suffix, unacked_index_key, unacked_key
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.server import Store

__all__ = ["restore_unacked"]

_decode = msgspec.json.Decoder(tuple[dict[str, Any], str, str]).decode


async def restore_unacked(store: Store, keys: Keys, lease: int) -> int:
    """Put unacknowledged messages back to the front of their queues, the oldest first; return how many."""
    noted, index = unacked_key(lease, keys.prefix), unacked_index_key(lease, keys.prefix)
    commands = store.commands
    restored = 0
    # The newest first: each goes to the front of its queue, so that the oldest is taken first.
    for tag in reversed(await commands.execute("ZRANGE", index, 0, -1)):
        entry = await commands.execute("HGET", noted, tag)
        if entry is not None:
            with contained("recovery", "a message that was fetched"):
                message, exchange, routing_key = _decode(entry)
                queue = await _queue_of(store, exchange, routing_key)
                priority = _marked(message).get("priority") or 0
                # One step: of two observers that read the same note, one puts its message back.
                restored += await script("restore").run(
                    commands, [noted, index, f"{keys.prefix}{queue}{priority_suffix(priority)}"], base=keys.base,
                    tag=tag, message=msgspec.json.encode(message),
                )  # fmt: skip
    return restored


def _marked(message: dict[str, Any]) -> dict[str, Any]:
    """Mark a message as delivered before, as kombu does; returns its properties."""
    properties: dict[str, Any] = message.get("properties") or {}
    message.setdefault("headers", {})["redelivered"] = True
    properties.setdefault("delivery_info", {})["redelivered"] = True
    return properties


async def _queue_of(store: Store, exchange: str, routing_key: str) -> str:
    """The queue that kombu has bound to an exchange; without a binding, the routing key is its name."""
    bindings = await store.commands.execute("SMEMBERS", f"{store.prefix}_kombu.binding.{exchange}")
    for binding in bindings:
        key, *_, queue = binding.decode(errors="replace").split(PRIORITY_SEPARATOR)
        if key == routing_key:
            return str(queue)
    return routing_key
