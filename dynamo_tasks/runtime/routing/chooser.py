"""The choice of an instance by ``router_mode``: the one way that the Router, clients and the Frontend share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.router import Recent, make_router
from dynamo_tasks.router.costs import KvRouterConfig
from dynamo_tasks.runtime.routing.kv_router import KvRouter
from dynamo_tasks.runtime.supervision.watcher import Watcher
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.topics.topic import Topic

__all__ = ["MODES", "Chooser", "Chosen", "check_mode", "kv_config"]

MODES = ("random", "round_robin", "power_of_two", "least_loaded", "kv")
"""The modes that choose by themselves."""


def check_mode(mode: str, setting: str) -> str:
    """A mode by its own name; Dynamo's dashes count as underscores.

    Raises:
        ConfigError: it is none; lists those that there are.
    """
    name = mode.replace("-", "_")
    if name not in MODES:
        raise ConfigError(f"{setting}: {mode!r}; allowed: {', '.join(MODES)}{suggest(mode, MODES)}")
    return name


def kv_config(given: Mapping[str, Any], setting: str) -> KvRouterConfig:
    """The parameters of ``kv`` from configuration.

    Raises:
        ConfigError: an unknown name, or a value that is not allowed.
    """
    known = KvRouterConfig.__struct_fields__
    named = {str(name).replace("-", "_"): value for name, value in given.items()}
    for name in named:
        if name not in known:
            raise ConfigError(f"{setting} has no parameter {name!r}{suggest(name, known)}")
    try:
        return msgspec.convert(named, KvRouterConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{setting}: {error}") from error


class Chosen(NamedTuple):
    """The place that a request goes to.

    Attributes:
        instance_id: The instance.
        late: It waits instead for one that has room.
        marks: Of its prompt, where it may have to wait; see :mod:`dynamo_tasks.router.late`.
    """

    instance_id: int
    late: bool = False
    marks: bytes = b""

    def queue(self, endpoint: EndpointId) -> str:
        """The queue in which it waits for an instance, or for all, if it does not wait for one that has room."""
        return endpoint.queue if self.late else endpoint.instance_queue(self.instance_id)


class Chooser:
    """Chooses instances of one component by one mode. Start it before its first choice.

    Args:
        store: Redis.
        topic: Events of components.
        watcher: The namespace's instances.
        component: Whose instances.
        mode: One of :data:`MODES`.
        config: Parameters of ``kv``.
    """

    def __init__(
        self, store: Store, topic: Topic, watcher: Watcher, component: str, mode: str,
        config: KvRouterConfig | None = None,
    ):  # fmt: skip
        self._watcher = watcher
        self._kv = None
        if mode == "kv":
            self._kv = KvRouter(store, topic, watcher, component, config or KvRouterConfig())
        else:
            self._policy, self._recent = make_router(mode), Recent()

    async def start(self) -> None:
        """Begin to follow what the mode needs to know; a second call does nothing."""
        if self._kv is not None:
            await self._kv.start()

    async def stop(self) -> None:
        """Follow no more; a second call does nothing."""
        if self._kv is not None:
            await self._kv.stop()

    async def choose(self, endpoint: EndpointId, payload: Any, request_id: str, session: str = "") -> Chosen:
        """Choose the instance that a request goes to; see :meth:`KvRouter.choose`.

        Raises:
            NoInstancesError: there is none.
        """
        if self._kv is not None:
            choice = await self._kv.choose(endpoint, payload, request_id, session)
            return Chosen(choice.worker, choice.late, choice.marks.encode() if choice.marks else b"")
        candidates = self._recent.adjust(self._watcher.candidates(endpoint), self._watcher.loads)
        chosen = self._policy.choose(candidates).instance_id
        self._recent.sent(chosen)
        return Chosen(chosen)
