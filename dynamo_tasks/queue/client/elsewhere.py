"""Calls that nobody will serve, since the workers of their class were given another address than the caller.

A worker may have its namespace and name from a file that the calling process does not know. Its requests would wait
for ever, each alike in a queue of its own; so the first call of a component looks once where its class is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

from dynamo_tasks.errors import DynamoError
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.store.bridge import bridge
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.registry import Registry

__all__ = ["warn_if_elsewhere"]

_warned: set[tuple[int, str, str, str]] = set()


def warn_if_elsewhere(app: Any, endpoint: EndpointId, declared: Any) -> None:
    """Look beside the call, once per process and component; what is found is the log event ``config.warning``.

    Args:
        app: The Celery application.
        endpoint: Whom the call is for.
        declared: Its declaration.
    """
    url: str = app.server_url
    key = (os.getpid(), url, endpoint.namespace, endpoint.component)
    if key not in _warned and declared.service is not None:
        _warned.add(key)
        looking = _look(url, app.key_prefix, endpoint, declared.service.class_path)
        asyncio.run_coroutine_threadsafe(looking, bridge().loop)


async def _look(url: str, prefix: str, endpoint: EndpointId, class_path: str) -> None:
    with contextlib.suppress(DynamoError):
        store = await Store.connect(url, prefix=prefix)
        try:
            found = await _addresses(store, class_path)
        finally:
            await store.close()
        own = f"{endpoint.namespace}.{endpoint.component}"
        if found and own not in found:
            event(
                "config.warning", key=own,
                problem=f"nobody serves it; workers serve {class_path} as {', '.join(sorted(found))}: give this "
                "process their settings (DYNAMO_CONFIG=FILE, DYNAMO_SERVICE_CONFIG or DYNAMO_NAMESPACE)",
            )  # fmt: skip


async def _addresses(store: Store, class_path: str) -> set[str]:
    registry = Registry(store)
    infos = [info for one in await store.namespaces() for info in await registry.instances(one)]
    return {f"{one.namespace}.{one.component}" for one in infos if one.extra.get("service") == class_path}
