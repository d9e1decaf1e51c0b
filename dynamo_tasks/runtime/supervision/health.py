"""Health checks of an instance: its own hooks, a canary request per idle endpoint, the lag of its event loop."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.runtime.supervision.actor import Actor
from dynamo_tasks.sdk.context import Context, enter_context
from dynamo_tasks.sdk.endpoints.handler import EndpointHandler
from dynamo_tasks.sdk.hooks import Hook

__all__ = ["HealthMonitor", "HealthSettings"]

_DEAD_AFTER = 2


class HealthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``health_check`` mapping of a service class.

    Attributes:
        interval: Seconds between two rounds.
        timeout: Seconds that a hook or a canary request may take.
        max_lag: Seconds that the event loop may be blocked.
        canary_after: Seconds without a request after which an endpoint that has a ``health_check_payload`` is
            sent that.
    """

    interval: float = 1.0
    timeout: float = 10.0
    max_lag: float = 2.0
    canary_after: float = 10.0

    @classmethod
    def of(cls, service: type) -> HealthSettings:
        """Read the settings of a service class.

        Raises:
            ConfigError: an unknown key, or no number.
        """
        given = getattr(service, "health_check", None)
        return cls.parse(given, service.__name__) if isinstance(given, Mapping) else cls()

    @classmethod
    def parse(cls, given: Mapping[str, Any], owner: str) -> HealthSettings:
        """Read the settings from a mapping.

        Args:
            given: Seconds by name.
            owner: Whose ``health_check`` it is, for the error.

        Raises:
            ConfigError: an unknown key, or no number.
        """
        try:
            return msgspec.convert(dict(given), cls, strict=False)
        except msgspec.ValidationError as exc:
            raise ConfigError(f"{owner}.health_check: {exc}") from None


class HealthMonitor(Actor):
    """Checks one instance, round after round.

    Args:
        settings: Times.
        ask: Asks the hooks of a kind, ``liveness`` or ``readiness``.
        handlers: Its endpoints; asked each round.
        busy: Whether requests run: then no canary is sent.
        on_result: Notified of each round: ``""`` where all is well, else what is wrong.
        on_dead: Notified once when liveness failed twice in a row.
    """

    name = "health"

    def __init__(
        self,
        settings: HealthSettings,
        ask: Callable[[Hook], Awaitable[bool]],
        handlers: Callable[[], list[EndpointHandler]],
        *,
        busy: Callable[[], bool],
        on_result: Callable[[str], Awaitable[None]],
        on_dead: Callable[[str], None],
    ):
        self._settings = settings
        self._ask_hooks = ask
        self._handlers = handlers
        self._busy = busy
        self._on_result = on_result
        self._on_dead = on_dead
        self._failures = 0
        self._lag = 0.0
        self._suspected = asyncio.Event()

    def suspect(self) -> None:
        """Check now, since it may be dead, and take a single no for an answer."""
        self._failures = max(self._failures, _DEAD_AFTER - 1)
        self._suspected.set()

    async def _run(self) -> None:
        loop, interval = asyncio.get_running_loop(), self._settings.interval
        while True:
            await self._on_result(await self.check())
            slept = loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._suspected.wait()
            self._suspected.clear()
            self._lag = loop.time() - slept - interval

    async def check(self) -> str:
        """Run one round; says what is wrong, or nothing."""
        dead = await self._ask("liveness")
        self._failures = self._failures + 1 if dead else 0
        if self._failures == _DEAD_AFTER:  # not >=: it is notified once
            self._on_dead(dead)
        # Who hangs is not dead, but serves nobody in time: it is out of the registry until it keeps up.
        if self._lag > self._settings.max_lag:
            return f"the event loop was blocked for {self._lag:.1f} s"
        return dead or await self._ask("readiness") or await self._canaries()

    async def _ask(self, hook: Hook) -> str:
        return await self._within(hook, self._probe(hook))

    async def _probe(self, hook: Hook) -> str:
        return "" if await self._ask_hooks(hook) else f"{hook}: no"

    async def _within(self, what: str, check: Awaitable[str]) -> str:
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await check
        except TimeoutError:
            return f"{what}: no answer within {self._settings.timeout:g} s"
        except Exception as exc:  # noqa: BLE001 - the user's code: that it raises is the answer
            return f"{what}: {type(exc).__name__}: {exc}"

    async def _canaries(self) -> str:
        now = asyncio.get_running_loop().time()
        for handler in self._handlers():
            # Requests that are served show the same, and cost nothing.
            idle = now - handler.used_at >= self._settings.canary_after
            if handler.canary is None or not idle or self._busy():
                continue
            reason = await self._within(f"canary of {handler.endpoint.name}", _canary(handler))
            if reason:
                handler.used_at = float("-inf")  # asked again in the next round
                return reason
        return ""


async def _canary(handler: EndpointHandler) -> str:
    context = Context(str(uuid.uuid4()), str(handler.endpoint))
    enter_context(context)
    try:
        values: Any = handler.run(handler.canary, [])
        async with aclosing(values):
            async for _ in values:
                pass
    finally:
        enter_context(None)
    return ""
