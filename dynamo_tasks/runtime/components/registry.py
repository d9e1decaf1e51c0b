"""The registry of what a process has once, however many objects of the hierarchy stand for it.

Clients of a namespace share one watcher, so a hundred clients of one component are one subscription; the
endpoints that this process serves have their stats handlers here, by service and endpoint. Calls that wait, maybe for
ever, for a component which nobody serves are warned of once.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import ConfigError, DynamoError, NoInstancesError
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.router.costs import KvRouterConfig
from dynamo_tasks.runtime.routing.chooser import Chooser
from dynamo_tasks.runtime.supervision.watcher import Watcher
from dynamo_tasks.store.client import StoreClient
from dynamo_tasks.store.redis.pubsub import Channels
from dynamo_tasks.store.topics.topic import Topic

__all__ = ["SharedObjects", "StatsHandler", "Unserved"]

_CONNECT_SECONDS = 10.0
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
                await self._watchers[endpoint.namespace].wait_for(endpoint, timeout=_CONNECT_SECONDS)
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


StatsHandler = Callable[[], Mapping[str, Any]]
"""Numbers of one endpoint of this process; JSON."""


class SharedObjects:
    """The shared objects of a process; one per process and Redis server.

    Attributes:
        channels: The process's subscriptions.
        watchers: Those that were started, by their namespace.
        events: Events of components and namespaces.
        unserved: Calls that nobody could take.
    """

    def __init__(self, client: StoreClient):
        self._client = client
        self.watchers: dict[str, Watcher] = {}
        self._starting = asyncio.Lock()
        self._stats: dict[str, dict[str, list[StatsHandler]]] = {}
        self.channels = Channels(client.store)
        self.events = Topic(client.store, self.channels)
        self.unserved = Unserved(client, self.watchers)
        self._choosers: dict[tuple[str, str, str, KvRouterConfig], Chooser] = {}

    async def watch(self, namespace: str) -> Watcher:
        """The watcher of a namespace."""
        async with self._starting:
            watcher = self.watchers.get(namespace)
            if watcher is None:
                watcher = Watcher([lane.store for lane in self._client.lanes], namespace)
                try:
                    await watcher.start()
                except BaseException:
                    await watcher.stop()
                    raise
                self.watchers[namespace] = watcher
            return watcher

    async def chooser(self, namespace: str, component: str, mode: str, config: KvRouterConfig) -> Chooser:
        """The chooser among the instances of a component; one per process, component, mode and parameters."""
        if config.router_late_binding != "off" and len(self._client.lanes) > 1:
            raise ConfigError(
                f"router_late_binding: {config.router_late_binding} needs one Redis server, on which those that wait "
                f"are compared, and there are {len(self._client.lanes)} lanes; set it to off"
            )
        watcher = await self.watch(namespace)
        made = self._choosers.get((namespace, component, mode, config))
        if made is None:
            made = Chooser(self._client.store, self.events, watcher, component, mode, config)
            self._choosers[namespace, component, mode, config] = made
        async with self._starting:
            await made.start()
        return made

    async def close(self) -> None:
        """End all watchers and subscriptions."""
        await self.unserved.close()
        for chooser in self._choosers.values():
            await chooser.stop()
        for watcher in self.watchers.values():
            await watcher.stop()
        await self.channels.close()

    def add_stats(self, endpoint: EndpointId, *handlers: StatsHandler) -> None:
        """Ask these, too, when the stats of an endpoint are gathered; later ones overrule earlier ones."""
        self._stats.setdefault(endpoint.queue, {}).setdefault(endpoint.name, []).extend(handlers)

    def forget_stats(self, endpoint: EndpointId, handlers: Iterable[StatsHandler]) -> None:
        """Ask these no more."""
        of_component = self._stats[endpoint.queue]
        for handler in handlers:
            of_component[endpoint.name].remove(handler)
        if not of_component[endpoint.name]:
            del of_component[endpoint.name]
        if not of_component:
            del self._stats[endpoint.queue]

    def stats(self, service_name: str) -> dict[str, dict[str, Any]]:
        """Stats of the endpoints of a component that this process serves."""
        return {name: _merged(handlers) for name, handlers in self._stats.get(service_name, {}).items()}

    async def scrape(self, namespace: str, component: str, timeout: float) -> dict[int, dict[str, Any]]:
        """Ask every instance of a component for its stats; see :meth:`Component.scrape_stats`."""
        infos = await self._client.registry.instances(namespace, component)
        missing = {info.lease_id for info in infos}
        found: dict[int, dict[str, Any]] = {}
        keys, commands = self._client.store.keys(namespace), self._client.store.commands
        nonce, complete = secrets.token_hex(8), asyncio.Event()

        def answered(payload: bytes) -> None:
            if payload:
                lease, stats = msgspec.json.decode(payload)
                found[int(lease, 16)] = stats
            if missing <= found.keys():
                complete.set()

        channel = keys.answers_channel(nonce)
        await self.channels.listen(channel, answered)
        try:
            for lease in missing:
                command = f"stats {namespace}|{component} 0 {channel}"
                await commands.execute("PUBLISH", keys.alive_channel(lease), command)
            answered(b"")
            async with asyncio.timeout(timeout):
                await complete.wait()
        except TimeoutError:
            return found
        finally:
            self.channels.forget(channel, answered)
        return found


def _merged(handlers: list[StatsHandler]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for handler in handlers:
        try:
            found |= handler()
        except Exception as exc:  # noqa: BLE001 - the user's: shown where the numbers would be
            found["error"] = f"{type(exc).__name__}: {exc}"
    return found
