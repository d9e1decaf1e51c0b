"""Late binding in a worker: while it has room, it takes the waiting request that reuses most of its cache.

Its pop waits for the bell of the queue among its other queues, in the order of priorities. Behind the bell it looks at
those that wait, chooses, and takes one (docs/routing.md).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Container
from typing import Any

from dynamo_tasks.observe import event, metrics
from dynamo_tasks.protocol.names import LATE
from dynamo_tasks.router.late import pick
from dynamo_tasks.store.routing.late import LateQueue

__all__ = ["LateBinding"]

_TRIES = 4
"""Choices that others may be faster with, until the bell is left to them."""
_BEGINS = 5.0
"""Seconds within which what was taken begins, or is not counted any more."""
_REMEMBERED = 1024
_USED = 10.0


class LateBinding:
    """Takes requests of one component for one worker.

    Args:
        late: The component's.
        shared: Redis key of the queue of all, without priority.
        worker_id: The instance, in hex.
        blocks: Its cache.
        backlog: Tokens of prompts that it has before it; ``None`` = it can take no more, whatever they are.
        room: With more of them it takes none.

    Attributes:
        shared: See above.
        queue: That for late binding.
        left_out: The pop in flight is without the queues for late binding.
        on_room: Called when there is room while they are left out.
    """

    def __init__(
        self, late: LateQueue, shared: str, worker_id: str, blocks: Container[int],
        backlog: Callable[[], float | None], room: float,
    ):  # fmt: skip
        self._late = late
        self.shared = shared
        self.queue = shared + LATE
        self._worker_id = worker_id
        self._blocks = blocks
        self._backlog = backlog
        self._room = room
        self._coming: dict[str, tuple[int, float]] = {}
        self._why: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._rang = -_USED
        self.left_out = False
        self.on_room: Callable[[], None] = lambda: None

    @property
    def has_room(self) -> bool:
        """``True`` if it may take a request."""
        backlog = self._backlog()
        return backlog is not None and backlog + self._pending() <= self._room

    def _pending(self) -> int:
        """Tokens of what was taken and has not begun."""
        if not self._coming:
            return 0
        now = time.monotonic()
        self._coming = {name: one for name, one in self._coming.items() if one[1] > now}
        return sum(tokens for tokens, _ in self._coming.values())

    @property
    def is_used(self) -> bool:
        """``True`` if somebody has waited in these queues in the last seconds."""
        return time.monotonic() - self._rang < _USED

    def begun(self, request_id: str) -> None:
        """A request has come to the engine: it is in the backlog."""
        self._coming.pop(request_id, None)

    def changed(self) -> None:
        """The backlog has changed."""
        if self.left_out and self.has_room:
            self.on_room()

    def queues(self, consumed: list[str]) -> list[str]:
        """The keys to pop from besides those that are consumed; none while there is no room."""
        self.left_out = False
        if self.shared not in consumed:
            return []
        self.left_out = not self.has_room
        return [] if self.left_out else [self.queue]

    async def answer(self, key: str) -> list[bytes]:
        """Take a request behind the bell of a queue; none if there is no room or others were faster.

        Args:
            key: Of the list in which it rang.

        Raises:
            DynamoError: Redis is away, or refuses; the bell rings again within moments.
        """
        self._rang = time.monotonic()
        if not self.has_room:
            await self._late.ring(key)
            return []
        taken = await self._take(key)
        return [] if taken is None else [taken]

    async def _take(self, key: str) -> bytes | None:
        for _ in range(_TRIES):
            window = await self._late.look(key)
            if not window.ids:
                return None
            choice = pick(window.requests, self._blocks, window.longest)
            request_id, one = window.ids[choice.place], window.requests[choice.place]
            prompt = one.marks.tokens if one.marks is not None else 0
            facts = {
                "instance_id": self._worker_id, "prompt_tokens": prompt, "overlap_tokens": choice.cached,
                "prefill_tokens": round(self._backlog() or 0), "place": choice.place, "passed": one.passed,
                "window": len(window.ids),
            }  # fmt: skip
            before = [window.ids[place] for place in choice.before]
            taken = await self._late.take(key, request_id, before, facts)
            if taken is not None:
                self._note(request_id, max(1, prompt - choice.cached), {**facts, "waited_s": taken.waited})
                return taken.message
        await self._late.ring(key)
        return None

    def _note(self, request_id: str, uncached: int, facts: dict[str, Any]) -> None:
        self._coming[request_id] = uncached, time.monotonic() + _BEGINS
        self._why[request_id] = facts
        while len(self._why) > _REMEMBERED:
            self._why.popitem(last=False)
        metrics.counter("late_taken_total").inc()
        metrics.counter("late_cached_tokens_total").inc(facts["overlap_tokens"])
        metrics.histogram("late_wait_seconds").observe(facts["waited_s"])
        event("router.taken", request_id=request_id, **facts)

    def why(self, request_id: str) -> dict[str, Any]:
        """Why this worker took a request; empty where it was not bound late. Asked once."""
        return self._why.pop(request_id, {})
