"""A simulated vLLM V1 scheduler: which sequences compute what in each step.

One step is one forward pass of a model. It decodes one token of every sequence whose prompt is
computed and, within ``max_num_batched_tokens``, computes pieces of the prompts of others. A sequence
needs KV blocks for all its tokens. When a running one needs another block and none is free, the one of
least priority that came last gives its blocks back and is computed again later.

::

    WAITING ──blocks for the context, room in the batch──▶ PREFILL ──all computed──▶ DECODE ──limit──▶ ENDED
       ▲                                                      │                        │
       └───────────────────── preempted ──────────────────────┴────────────────────────┘
    every state ──abort──▶ ENDED            NEW ──submit──▶ WAITING
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import AsyncGenerator
from typing import Any

from dynamo_tasks.engines.args import Count, EngineArgs, Milliseconds
from dynamo_tasks.engines.mocker.sequence import KVCache, Sequence, SequenceState, chain_hash
from dynamo_tasks.errors import DynamoError

__all__ = ["Scheduler", "SchedulerArgs"]

_CHANGES_EVERY = 0.005
"""Seconds between two batches of changes: steps without a cost are thousands a second."""
_MOST_HASHED = 8192
"""Blocks that are hashed in one step: long prompts that are all in the cache would hold up the loop."""


class SchedulerArgs(EngineArgs, kw_only=True, frozen=True):
    """Arguments of the simulated scheduler.

    Attributes:
        token_delay_ms: Time of a step that decodes.
        prefill_ms_per_1k_tokens: Time that 1,000 tokens of prompt add to a step; cached ones are free.
        num_blocks: KV blocks in all.
        block_size: Tokens per block.
        max_num_batched_tokens: Most tokens that one step computes; at least ``max_num_seqs``.
        enable_prefix_caching: Use the blocks of earlier prompts that begin alike.
    """

    token_delay_ms: Milliseconds = 0.0
    prefill_ms_per_1k_tokens: Milliseconds = 0.0
    num_blocks: Count = 16384
    block_size: Count = 16
    max_num_batched_tokens: Count = 8192
    enable_prefix_caching: bool = True


class Scheduler:
    """Runs steps while there are sequences. One task, one event loop.

    Attributes:
        cache: The KV blocks.
        waiting: Number of sequences that wait.
        tokens: Tokens produced so far.
        prefill_tokens: Tokens of prompts that have yet to be computed.
    """

    def __init__(self, args: SchedulerArgs) -> None:
        """Prepare; :meth:`run` does the work."""
        self.cache = KVCache(args.num_blocks, args.block_size)
        self.waiting = 0
        self.tokens = self.prefill_tokens = 0
        self._args = args
        self._queue: list[tuple[tuple[int, int], Sequence]] = []
        self._prefill: list[Sequence] = []
        self._decode: list[Sequence] = []
        self._full: list[Sequence] = []
        self._open: set[Sequence] = set()
        self._arrivals = 0
        self._error: DynamoError | None = None
        self._asked = self._hit = self._hashed = 0
        self._wake: asyncio.Future[None] | None = None
        self._changed = asyncio.Event()
        self._due = -math.inf

    @property
    def running(self) -> int:
        """Number of sequences that hold blocks."""
        return len(self._decode) + len(self._prefill)

    @property
    def decoding(self) -> int:
        """Number of sequences that get a token in the next step."""
        return len(self._decode)

    @property
    def busy(self) -> bool:
        """``True`` while there is anything to compute."""
        return bool(self._decode or self._prefill or self.waiting)

    @property
    def prefix_hit_rate(self) -> float:
        """Share of the prompt tokens that the prefix cache had."""
        return self._hit / self._asked if self._asked else 0.0

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; the one with the lowest (priority, arrival) goes first.

        Raises:
            DynamoError: the scheduler has ended, and why.
        """
        if self._error is not None:
            raise self._error
        self._open.add(sequence)
        self._arrivals += 1
        sequence.rank = (sequence.rank[0], self._arrivals)
        self._enqueue(sequence)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def abort(self, sequence: Sequence) -> None:
        """End a sequence now and free its blocks; does nothing if it has ended."""
        if sequence not in self._open:
            return
        state = sequence.state
        self._forget_prefill(sequence)
        if state is SequenceState.WAITING:
            self.waiting -= 1  # its entry in the queue is skipped later
        else:
            (self._decode if state is SequenceState.DECODE else self._prefill).remove(sequence)
        self._end(sequence)

    def fail(self, error: DynamoError) -> None:
        """End all sequences and take no more; their consumers raise ``error``."""
        self._error = error
        for sequence in [*self._open]:
            sequence.run.fail(error)
        # The step that failed may have left anything behind: begin anew instead of tidying up.
        self._open.clear()
        self._queue.clear()
        self._prefill, self._decode, self._full, self.waiting, self.prefill_tokens = [], [], [], 0, 0
        self.forget()

    def forget(self) -> None:
        """Begin with an empty cache; nothing runs."""
        changes = self.cache.changes
        self.cache = KVCache(self.cache.num_blocks, self.cache.block_size)
        if changes is not None:
            self.cache.changes = changes
            changes.append({"type": "AllBlocksCleared"})
            self._changed.set()

    def _planned(self) -> int:
        planned = self.plan()
        self._tell()
        return planned

    def _tell(self) -> None:
        if self.cache.changes:
            self._changed.set()

    async def batches(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what changed in the cache, as it changes; ``cache.changes`` must be a list."""
        for seq in itertools.count():
            await self._changed.wait()
            self._changed.clear()
            changes, self.cache.changes = self.cache.changes or [], []
            yield {"seq": seq, "ts": time.time(), "dp_rank": None, "events": changes}
            await asyncio.sleep(_CHANGES_EVERY)

    async def run(self) -> None:
        """Step for ever."""
        loop = asyncio.get_running_loop()
        args = self._args
        while True:
            if not self.busy:
                self._tell()
                self._queue.clear()
                self._wake = loop.create_future()
                await self._wake
                self._wake = None
                self._due = -math.inf
            cost = self._planned() * args.prefill_ms_per_1k_tokens / 1e6
            if self._decode:
                cost += args.token_delay_ms / 1e3
            if cost:
                await self._sleep(loop.time(), cost)
                self.advance()
            else:
                self.advance()
                await asyncio.sleep(0)

    async def _sleep(self, now: float, cost: float) -> None:
        """Wait for the end of a step; what the loop did since the last one's end is part of it."""
        start = self._due if now - self._due < cost else now
        self._due = start + cost
        await asyncio.sleep(max(0.0, self._due - now))

    # -- before a step -------------------------------------------------------------------------

    def plan(self) -> int:
        """Give out blocks and plan the prompts' pieces; the tokens of prompt that the step computes."""
        calm = True
        if self._full:
            full, self._full = self._full, []
            for sequence in full:
                if sequence.state is SequenceState.DECODE:
                    calm = self._grow(sequence) and calm
        if not (self._prefill or self.waiting):
            return 0
        # Each that decodes takes a token of the step; prompts share what is left.
        budget = total = self._args.max_num_batched_tokens - len(self._decode)
        for sequence in self._prefill:
            budget -= self._plan(sequence, budget)
        self._hashed = 0
        while calm and budget > 0 and self._hashed < _MOST_HASHED and self._has_room():
            admitted = self._admit()
            if admitted is None:
                break
            budget -= self._plan(admitted, budget)
        return total - budget

    def _has_room(self) -> bool:
        return bool(self.waiting) and self.running < self._args.max_num_seqs

    def _grow(self, sequence: Sequence) -> bool:
        """Add a block, taking it from others if need be; false if anybody was preempted."""
        calm = True
        while (block := self.cache.grow()) is None:
            # The last one gives way, so that the first one always gets on.
            victim = max((*self._prefill, *self._decode), key=_rank)
            self._preempt(victim)
            calm = False
            if victim is sequence:
                return False
        sequence.blocks.append(block)
        self._set_milestone(sequence)
        return calm

    def _preempt(self, sequence: Sequence) -> None:
        self._forget_prefill(sequence)
        (self._decode if sequence.state is SequenceState.DECODE else self._prefill).remove(sequence)
        self._release(sequence)
        self._enqueue(sequence)

    def _forget_prefill(self, sequence: Sequence) -> None:
        """Count the rest of its prompt no more."""
        if sequence.state is not SequenceState.DECODE:
            self.prefill_tokens -= sequence.context - sequence.computed

    def _enqueue(self, sequence: Sequence) -> None:
        sequence.state = SequenceState.WAITING
        sequence.context = len(sequence.prompt) + sequence.produced
        sequence.computed = 0
        self.prefill_tokens += sequence.context
        self.waiting += 1
        heapq.heappush(self._queue, (sequence.rank, sequence))

    def _admit(self) -> Sequence | None:
        """Start the first in the queue, if there are blocks for its context."""
        # Aborted ones are still here: to take one out of the middle would cost a walk through all.
        while self._queue[0][1].state is not SequenceState.WAITING:
            heapq.heappop(self._queue)
        sequence = self._queue[0][1]
        size = self.cache.block_size
        # The last token is always computed: its output is the next token.
        shared = self._find(sequence, (sequence.context - 1) // size)
        blocks = self.cache.take(shared, -(-sequence.context // size))
        if blocks is None:
            return None
        heapq.heappop(self._queue)
        self.waiting -= 1
        sequence.blocks = blocks
        sequence.published = len(shared)
        sequence.computed = len(shared) * size
        self.prefill_tokens -= sequence.computed
        sequence.state = SequenceState.PREFILL
        self._prefill.append(sequence)
        self._count(sequence)
        return sequence

    def _find(self, sequence: Sequence, most: int) -> list[int]:
        if not self._args.enable_prefix_caching:
            return []
        self._hash(sequence, most)
        return self.cache.find(sequence.hashes[:most])

    def _count(self, sequence: Sequence) -> None:
        self._asked += sequence.context
        self._hit += sequence.computed
        run = sequence.run
        if sequence is run.sequences[0] and sequence.produced == sequence.taken == 0:
            run.cached_tokens = sequence.computed

    def _plan(self, sequence: Sequence, budget: int) -> int:
        sequence.chunk = min(budget, sequence.context - sequence.computed)
        # Published before it is computed: a sequence in the same step may share it, as in vLLM.
        self._publish(sequence, sequence.computed + sequence.chunk)
        return sequence.chunk

    # -- after a step --------------------------------------------------------------------------

    def advance(self) -> None:
        """Count up what the step produced, and wake the consumers."""
        reached: list[Sequence] = []
        for sequence in self._decode:  # the hot loop: once per token
            sequence.produced = produced = sequence.produced + 1
            if produced >= sequence.milestone:
                reached.append(sequence)
            run = sequence.run
            waiter = run.waiter
            if waiter is not None:
                run.waiter = None
                if not waiter.done():
                    waiter.set_result(None)
        self.tokens += len(self._decode)
        if self._prefill:
            reached += self._end_prefill()
        if reached:
            self._look_at(reached)

    def _end_prefill(self) -> list[Sequence]:
        """Move those whose context is computed to the decoding ones, with their first token."""
        ready: list[Sequence] = []
        for sequence in self._prefill:
            sequence.computed += sequence.chunk
            self.prefill_tokens -= sequence.chunk
            if sequence.computed >= sequence.context:
                ready.append(sequence)
        for sequence in ready:
            sequence.state = SequenceState.DECODE
            sequence.produced += 1
            self._set_milestone(sequence)
            waiter, sequence.run.waiter = sequence.run.waiter, None
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        self.tokens += len(ready)
        self._prefill = [sequence for sequence in self._prefill if sequence.state is SequenceState.PREFILL]
        self._decode += ready
        return [sequence for sequence in ready if sequence.produced >= sequence.milestone]

    def _look_at(self, reached: list[Sequence]) -> None:
        ended = False
        for sequence in reached:
            self._publish(sequence, len(sequence.prompt) + sequence.produced - 1)
            if sequence.produced < sequence.limit:
                self._full.append(sequence)
            else:
                self._end(sequence)
                ended = True
        if ended:
            self._decode = [sequence for sequence in self._decode if sequence.state is SequenceState.DECODE]

    def _set_milestone(self, sequence: Sequence) -> None:
        room = len(sequence.blocks) * self.cache.block_size - len(sequence.prompt) + 1
        sequence.milestone = min(sequence.limit, room)

    # -- blocks --------------------------------------------------------------------------------

    def _end(self, sequence: Sequence) -> None:
        sequence.state = SequenceState.ENDED
        self._open.discard(sequence)
        self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        self.cache.release(sequence.blocks)
        sequence.blocks = []
        sequence.published = 0

    def _publish(self, sequence: Sequence, computed: int) -> None:
        """Make the full blocks among the first ``computed`` tokens findable."""
        full = computed // self.cache.block_size
        if full <= sequence.published or not self._args.enable_prefix_caching:
            return
        self._hash(sequence, full)
        for place in range(sequence.published, full):
            parent = sequence.hashes[place - 1] if place else None
            self.cache.publish(sequence.blocks[place], sequence.hashes[place], parent)
        sequence.published = full

    def _hash(self, sequence: Sequence, count: int) -> None:
        size, hashes = self.cache.block_size, sequence.hashes
        first = sequence.run.sequences[0]
        if not hashes and sequence is not first:  # the choices of a request have one prompt
            hashes += first.hashes[: len(sequence.prompt) // size]
        self._hashed += max(0, count - len(hashes))
        for place in range(len(hashes), count):
            tokens = sequence.tokens(place * size, (place + 1) * size)
            hashes.append(chain_hash(hashes[-1] if hashes else None, tokens, sequence.seed))


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank
