"""Calls that wait, maybe for ever, for a component which nobody serves: the caller's log warns of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import DynamoError, NoInstancesError
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.runtime.supervision.watcher import Watcher
from dynamo_tasks.store.client import StoreClient

__all__ = ["Unserved"]

_PATIENCE = 10.0
"""Seconds for which nobody may serve a component: workers start anew, engines load."""


class Unserved:
    """Warns of endpoints that are called and have no instance; looks once after each, from its first call.

    Args:
        client: Where it looks who is served instead.
        watchers: By their namespace.
    """

    def __init__(self, client: StoreClient, watchers: Mapping[str, Watcher]):
        self._client = client
        self._watchers = watchers
        self._looks: dict[EndpointId, asyncio.Task[None]] = {}

    def check(self, endpoint: EndpointId) -> None:
        """Note that a call is made."""
        if endpoint not in self._looks:
            self._looks[endpoint] = asyncio.get_running_loop().create_task(self._look(endpoint))

    async def _look(self, endpoint: EndpointId) -> None:
        with contextlib.suppress(DynamoError):
            try:
                await self._watchers[endpoint.namespace].wait_for(endpoint, timeout=_PATIENCE)
            except NoInstancesError:
                hint = suggest(str(endpoint), await self._served(), label="served")
                event("queue.nobody_serves", endpoint=str(endpoint), hint=hint.lstrip("; "))

    async def _served(self) -> set[str]:
        found = [await self._client.registry.instances(one) for one in await self._client.store.namespaces()]
        return {str(info.id) for infos in found for info in infos}

    async def close(self) -> None:
        """Look after nothing any more."""
        looks = [*self._looks.values()]
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
