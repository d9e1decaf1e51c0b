"""Sequences of tokens that a simulated scheduler works on, and their consumers."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Protocol

from dynamo_tasks.errors import DynamoError

__all__ = ["Run", "Sequence", "SequenceState", "Text"]


class Text(Protocol):
    """The text of one choice, as tokens."""

    def ids(self, start: int, stop: int) -> list[int]:
        """The tokens at positions ``start`` to below ``stop``."""
        ...


class SequenceState(Enum):
    """State of a sequence."""

    NEW = 0
    WAITING = 1
    PREFILL = 2
    DECODE = 3
    ENDED = 4


class Run:
    """The sequences of one request, and the one consumer that waits for them."""

    __slots__ = ("cached_tokens", "error", "sequences", "waiter")

    def __init__(self) -> None:
        """A request without sequences yet."""
        self.sequences: list[Sequence] = []
        self.waiter: asyncio.Future[None] | None = None
        self.error: DynamoError | None = None
        self.cached_tokens = 0

    async def wait(self) -> None:
        """Wait for the next step that produced something for this request.

        Raises:
            DynamoError: the scheduler ended, and why.
        """
        if self.error is None:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        if self.error is not None:  # shared by all requests: each raises one of its own
            raise type(self.error)(self.error.message) from self.error.__cause__

    def fail(self, error: DynamoError) -> None:
        """Let the consumer raise ``error``."""
        self.error = error
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class Sequence:
    """One choice of a request inside the scheduler.

    Attributes:
        produced: Tokens of output that exist; the scheduler counts it up.
        taken: Tokens of output that the consumer has got.
        limit: The output ends at so many tokens.
        milestone: Value of ``produced`` at which the scheduler must look at the sequence: the limit,
            or the first token that has no room in its blocks.
        root: What the hash of its first block begins with: only sequences of the same root share blocks.
    """

    __slots__ = (
        "blocks", "chunk", "computed", "context", "hashes", "limit", "milestone", "produced",
        "prompt", "published", "rank", "root", "run", "state", "taken", "text",
    )  # fmt: skip

    def __init__(
        self,
        run: Run,
        prompt: list[int],
        text: Text,
        done: int,
        limit: int,
        priority: int,
        salt: str | None = None,
    ) -> None:
        """A sequence of ``prompt`` whose first ``done`` tokens of output exist already; ``salt`` of its cache."""
        self.run = run
        self.prompt = prompt
        self.text = text
        self.produced = self.taken = done
        self.limit = limit
        self.rank = (priority, 0)
        self.state = SequenceState.NEW
        self.blocks: list[int] = []
        self.hashes: list[int] = []
        self.root = 0 if salt is None else hash((salt,))
        self.published = self.computed = self.context = self.chunk = self.milestone = 0

    def tokens(self, start: int, stop: int) -> list[int]:
        """Tokens of prompt + output."""
        size = len(self.prompt)
        if stop <= size:
            return self.prompt[start:stop]
        return self.prompt[start:size] + self.text.ids(max(0, start - size), stop - size)
