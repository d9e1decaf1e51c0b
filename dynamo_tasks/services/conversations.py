"""Conversations of a process: who adds the items of responses that have ended."""

from __future__ import annotations

import asyncio

from dynamo_tasks.errors import DynamoError
from dynamo_tasks.frontend.responses.turns import Turns
from dynamo_tasks.protocol.jitter import jittered
from dynamo_tasks.runtime.supervision.actor import Actor

__all__ = ["ConversationSweeper"]

_EVERY = 2.0


class ConversationSweeper(Actor):
    """Looks for ends of responses that go on in conversations, for those whom nobody reads.

    Any number may run side by side: each looks at what none has looked at for a while.
    """

    name = "conversation-sweeper"

    def __init__(self, turns: Turns):
        self._turns = turns

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(jittered(_EVERY, 0.8, 1.2))
            try:
                await self._turns.sweep()
            except DynamoError:
                continue  # Redis is away: what needs it says so
