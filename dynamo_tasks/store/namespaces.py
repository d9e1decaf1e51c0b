"""A namespace as a whole: erased alone, without a trace in the others."""

from __future__ import annotations

from dynamo_tasks.errors import NamespaceInUseError
from dynamo_tasks.store.queue_keys import glob_escape, namespace_patterns
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.registry import Registry

__all__ = ["purge_namespace"]

_BATCH = 500


async def purge_namespace(store: Store, namespace: str, *, force: bool = False) -> int:
    """Erase everything that a namespace has in Redis: records, streams, queues, events, registrations.

    Args:
        store: Redis.
        namespace: Its name.
        force: Also where instances are registered; what they run ends with an error, and they register again.

    Returns:
        Number of keys that were deleted.

    Raises:
        NamespaceInUseError: instances are registered in it.
    """
    keys = store.keys(namespace)
    alive = {info.instance_id for info in await Registry(store).instances(namespace)}
    if alive and not force:
        who = "1 instance is" if len(alive) == 1 else f"{len(alive)} instances are"
        raise NamespaceInUseError(
            f"{who} registered in namespace {namespace!r}; stop what serves it first, or use --force"
        )
    await store.commands.execute("SREM", store.keys.namespaces, namespace)
    return sum(
        [await _erase(store, pattern) for pattern in namespace_patterns(glob_escape(keys.prefix), namespace)]
    )


async def _erase(store: Store, pattern: str) -> int:
    deleted, cursor = 0, b"0"
    while True:
        cursor, found = await store.commands.execute("SCAN", cursor, "MATCH", pattern, "COUNT", _BATCH)
        if found:
            deleted += int(await store.commands.execute("UNLINK", *found))
        if cursor == b"0":
            return deleted
