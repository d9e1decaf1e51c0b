"""Agreement of several routers: each choice is made knowing all choices before it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Collection, Sequence
from contextlib import suppress

from dynamo_tasks.errors import DynamoError
from dynamo_tasks.router.kv import Choice, KvPolicy
from dynamo_tasks.runtime.routing.prompt import Prompt
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.routing.choices import Choices, SharedChoice

__all__ = ["Agreement"]

_TRIES = 4
"""Choices of which the last one is made whatever others do at the same moment."""
_PATIENCE = 1.0
"""Seconds for which Redis may be silent; for as long again, nothing is shared."""


class Agreement:
    """Makes the choices of one router, one at a time.

    Args:
        store: Redis.
        namespace: Of the component.
        component: Whose instances are chosen.
        policy: Of this router.
    """

    def __init__(self, store: Store, namespace: str, component: str, policy: KvPolicy):
        self._policy = policy
        self._router = secrets.token_hex(8)
        self._choices = Choices(store, namespace, component, self._router)
        self._turn = asyncio.Lock()
        self._alone_until = 0.0

    async def begin(self) -> None:
        """Know of the choices from now on; without Redis, of all that it has."""
        with suppress(DynamoError, TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._choices.begin()

    async def choose(
        self,
        workers: Sequence[int],
        prompt: Prompt,
        request_id: str,
        last: int | None,
        silent: Collection[int],
        step: int = 0,
    ) -> Choice:
        """Choose a worker; the request counts as sent to it, unless it is to wait.

        Args:
            workers: Those that live.
            prompt: Of the request.
            request_id: Its id.
            last: The worker of its session's last request.
            silent: Workers that report no events.
            step: See :meth:`KvPolicy.choose`.
        """
        # One at a time: two choices at once would not know of each other, though they are made in one process.
        async with self._turn:
            for tries in range(1, _TRIES + 1):
                now = time.monotonic()
                choice = self._policy.choose(workers, prompt.tokens, prompt.hashes, now, last, step)
                if choice.late:
                    return choice
                if await self._is_next(choice, prompt, request_id, force=tries == _TRIES):
                    break
            believe = choice.worker in silent
            self._policy.sent(choice, request_id, prompt.hashes, now, believe=believe)
            return choice

    async def _is_next(self, choice: Choice, prompt: Prompt, request_id: str, *, force: bool) -> bool:
        """Share a choice; ``False``: others were first, whose choices are known now."""
        now, config = time.monotonic(), self._policy.config
        if not config.router_replica_sync or now < self._alone_until:
            return True
        blocks = len(prompt.hashes) - choice.overlap // self._policy.block_size
        own = SharedChoice(self._router, choice.worker, request_id, choice.prompt - choice.overlap, blocks)
        try:
            async with asyncio.timeout(_PATIENCE):
                others = await self._choices.note(own, force=force)
        except (DynamoError, TimeoutError):  # Redis is away, or refuses: the submit says so, or waits
            self._alone_until = time.monotonic() + _PATIENCE
            return True
        for one in others or ():
            self._policy.loads.sent(one.worker, one.request_id, one.uncached, one.blocks, now)
        return others is None
