"""An instance in the registry of one namespace: its lease, its endpoints, its presence, the commands sent to it.

The lease is renewed on the loop that serves the requests: a loop that hangs loses its lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dynamo_tasks.errors import AlreadyRegisteredError, DynamoError, ServerUnavailableError
from dynamo_tasks.observe import metrics
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.instances import InstanceInfo, Load
from dynamo_tasks.runtime.control import CONTROL, CommandHandler, check_reply_to, refuse_command
from dynamo_tasks.runtime.supervision.actor import Actor
from dynamo_tasks.store.ledger.recovery import Recovery
from dynamo_tasks.store.redis.connection import Link
from dynamo_tasks.store.redis.containment import contained, is_wrong_type, pass_over
from dynamo_tasks.store.redis.refusals import ReplyError
from dynamo_tasks.store.redis.retry import retry_until_up
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.redis.wire import Wire
from dynamo_tasks.store.registry import LEASE_TTL, RENEW_EVERY, Registry

__all__ = ["Registration"]

_STATS = b"stats "
_RETRY = 0.5
_RECONCILE_EVERY = round(2.0 / RENEW_EVERY)


class Registration(Actor):
    """Keeps an instance registered in a namespace.

    Args:
        store: The Redis server.
        namespace: Where it registers.
        lease: Its lease id.
        load: Asked for the current load at each renewal.
        on_command: Takes what is published on its alive channel.
        running: Ids of the requests that it really runs.
        stats: Asked for the stats of a component of this instance, by its service name.

    Attributes:
        traffic: Limits of its components as a whole; sent as it registers.
        on_control: Takes commands that concern the instance as a whole; refuses them by default.
    """

    name = "lease"

    def __init__(
        self,
        store: Store,
        namespace: str,
        lease: int,
        *,
        load: Callable[[], Load],
        on_command: Callable[[bytes, bytes], None],
        running: Callable[[], Iterable[str]],
        stats: Callable[[str], dict[str, Any]],
    ):
        self._registry = Registry(store)
        self._namespace = namespace
        self.lease = lease
        self._load = load
        self._infos: list[InstanceInfo] = []
        self._counter = 0
        self._running = running
        self._stats = stats
        self.traffic: dict[str, Mapping[str, int | None]] = {}
        self._on_command = on_command
        self._commands = store.commands
        self._recovery = Recovery(store)
        self._unaccounted: set[str] = set()
        self._registered = self._asked = False
        self.on_control = CommandHandler(store, namespace, refuse_command).take
        self._appearing: asyncio.Future[None] | None = None
        self._keys = store.keys(namespace)
        self._channel = self._keys.alive_channel(lease)
        self._control = self._keys.control_channel(lease)
        self._presence = Link(
            store.address, name="dynamo-tasks:presence", on_ready=self._subscribe, on_message=self._ordered
        )

    @property
    def registered(self) -> bool:
        """``True`` while it can be found."""
        return self._registered

    @property
    def started(self) -> bool:
        """``True`` while it keeps its lease; before that, nobody but its start registers it."""
        return self._task is not None

    async def _subscribe(self, wire: Wire) -> None:
        # The presence channel comes last: an instance that is seen there gets every command.
        for channel in (self._control, self._channel):
            await wire.execute("SUBSCRIBE", channel)

    def _ordered(self, channel: bytes, payload: bytes) -> None:
        if channel == self._control.encode():
            if payload.startswith(CONTROL):
                self.on_control(payload)
            return
        if not payload.startswith(_STATS):
            self._on_command(channel, payload)
            return
        _, service_name, _, reply_to = payload.decode().split(" ", 3)
        check_reply_to(self._keys, reply_to)
        answer = msgspec.json.encode([f"{self.lease:x}", self._stats(service_name)], enc_hook=str)
        self._commands.post("PUBLISH", reply_to, answer)

    def appear(self) -> None:
        """Begin to be present; it cannot be found yet."""
        if self._appearing is None:
            self._appearing = asyncio.ensure_future(retry_until_up(self._commands, self._presence.start))

    async def start(self) -> None:
        """Be present, then register and keep the lease; waits for a Redis server that is away or refuses."""
        if self._task is None:
            self.appear()
            assert self._appearing is not None
            await self._appearing
            await retry_until_up(self._commands, self._enter)
            await super().start()

    async def _enter(self) -> None:
        """Enter the registry; waits while a key of another type stands where a part of it should be."""
        while True:
            try:
                return await self.register()
            except ReplyError as exc:
                if not is_wrong_type(exc):
                    raise
                pass_over("registry", self._keys.base, exc)
                await asyncio.sleep(_RETRY)

    async def register(self) -> None:
        """Enter the registry, for the first time or again; a second call does nothing.

        Raises:
            AlreadyRegisteredError: another instance has this lease.
            ServerUnavailableError: Redis cannot be reached.
        """
        if self._registered:
            return
        self._asked = True
        await self._registry.register(self._namespace, self.lease, self._infos, self.traffic)
        self._registered = True
        _report_registered(self._infos)

    async def announce(self, infos: Iterable[InstanceInfo]) -> None:
        """Announce these endpoints in the place of all others; later, where it is not registered now.

        Raises:
            ServerUnavailableError: Redis cannot be reached; it gets them with the next renewal.
        """
        before, self._infos = self._infos, list(infos)
        known, wanted = ({info.id for info in infos} for infos in (before, self._infos))
        new = [info for info in self._infos if info.id not in known]
        gone = [info for info in before if info.id not in wanted]
        if not self._registered:
            return
        try:
            if new:
                await self._registry.register(self._namespace, self.lease, new)
                _report_registered(new)
        finally:
            if gone:
                await self._withdraw(gone)

    async def _withdraw(self, infos: Sequence[InstanceInfo]) -> None:
        """Serve some endpoints no more; what waits for this instance alone, any other one may take."""
        with contextlib.suppress(DynamoError):
            await self._recovery.reassign([info.id for info in infos], self.lease)
            await self._registry.withdraw(self._namespace, self.lease, infos)
        for info in infos:
            event("instance.deregistered", endpoint=str(info.id), instance_id=info.instance_id)

    async def _run(self) -> None:
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(RENEW_EVERY)
            self._counter += 1
            began = time.monotonic()
            try:
                infos = self._infos if self._registered else []
                # What is gone is entered anew: Redis may have been replaced by one that knows of nobody.
                if not await self._registry.renew(
                    self._namespace, self.lease, self._counter, infos, self._load()
                ) and (self._registered or not infos):
                    await self._registry.register(self._namespace, self.lease, infos, self.traffic)
                if self._counter % _RECONCILE_EVERY == 0:
                    with contained("recovery", "what this instance owns"):
                        await self._reconcile()
            except (AlreadyRegisteredError, ServerUnavailableError):
                continue
            except ReplyError as exc:
                pass_over("registry", f"lease {self.lease:x}", exc)
                continue
            # Local trust is counted from the start of the attempt.
            if began - renewed > LEASE_TTL:
                metrics.counter("leases_lost_total").inc()
                event("lease.lost", instance_id=f"{self.lease:x}", silent_s=began - renewed)
            renewed = began
            metrics.histogram("lease_renewal_seconds").observe(time.monotonic() - began)

    async def _reconcile(self) -> None:
        """Requeue what Redis says this instance owns and it does not run, once that was seen twice."""
        owned = await self._recovery.owned(self._namespace, self.lease)
        extra = owned - set(self._running())
        # Seen twice: what was claimed a moment ago is owned before it runs.
        for request_id in extra & self._unaccounted:
            await self._recovery.requeue(self._namespace, request_id, self.lease)
            metrics.counter("sweeper_moves_total", kind="disowned").inc()
            event(
                "sweeper.moved", kind="disowned", count=1, namespace=self._namespace,
                lost_instance=f"{self.lease:x}",
            )  # fmt: skip
        self._unaccounted = extra - self._unaccounted

    async def deregister(self) -> None:
        """Leave the registry; the lease stays while requests run on it."""
        if not self._registered:
            return
        self._registered = False  # first: a renewal meanwhile renews the lease alone
        with contextlib.suppress(DynamoError):
            await self._leave_queues()
            await self._registry.revoke(self._namespace, self.lease, keep_lease=True)
        for info in self._infos:
            event("instance.deregistered", endpoint=str(info.id), instance_id=info.instance_id)

    async def _leave_queues(self) -> None:
        """Let any other instance take what waits for this one alone."""
        await self._recovery.reassign([info.id for info in self._infos], self.lease)

    async def stop(self) -> None:
        """Give the lease back, also where a start was given up while Redis was asked for it."""
        if self._appearing is not None:
            self._appearing.cancel()
        await super().stop()
        try:
            if self._asked:
                with contextlib.suppress(DynamoError):
                    await self._leave_queues()
                    await self._registry.revoke(self._namespace, self.lease)
        finally:
            # Last: as long as its channel is held, nobody takes the instance for dead.
            await self._presence.close()


def _report_registered(infos: Iterable[InstanceInfo]) -> None:
    for info in infos:
        event(
            "instance.registered", endpoint=str(info.id), instance_id=info.instance_id,
            queue=info.transport["celery"], model=info.model.name if info.model else None,
        )  # fmt: skip
