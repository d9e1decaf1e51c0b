"""Sequences of tokens that a simulated scheduler works on, their consumers, and the KV cache that they share.

The cache is paged as vLLM keeps it (``vllm/v1/core/block_pool.py``): blocks, not their contents. A block belongs to any
number of sequences (``refs``). A full one also has a hash of all tokens up to its end; with it the block can be found
by other prompts that begin alike. When its last sequence lets go, a block becomes free but stays findable until it is
handed out again, least recently used first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence as Tokens
from enum import Enum
from typing import Any, Protocol

from dynamo_tasks.errors import DynamoError
from dynamo_tasks.protocol.kv.block_hashes import SEED, block_hash, chained, seed_of

__all__ = ["KVCache", "Run", "Sequence", "SequenceState", "Text", "chain_hash"]


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
        seed: Of the hash of its first block: only sequences of the same seed share blocks.
    """

    __slots__ = (
        "blocks", "chunk", "computed", "context", "hashes", "limit", "milestone", "produced",
        "prompt", "published", "rank", "run", "seed", "state", "taken", "text",
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
        self.seed = seed_of(salt=salt or "")
        self.published = self.computed = self.context = self.chunk = self.milestone = 0

    def tokens(self, start: int, stop: int) -> list[int]:
        """Tokens of prompt + output."""
        size = len(self.prompt)
        if stop <= size:
            return self.prompt[start:stop]
        return self.prompt[start:size] + self.text.ids(max(0, start - size), stop - size)


def chain_hash(previous: int | None, tokens: Tokens[int], seed: int = SEED) -> int:
    """Hash of a full block: of its tokens and, through ``previous``, of all before them.

    Args:
        previous: Of the block before it; ``None`` = it is the first.
        tokens: Its tokens.
        seed: Of a first block.
    """
    return chained(previous, block_hash(tokens, seed if previous is None else SEED))


class KVCache:
    """The pool of blocks.

    Attributes:
        num_blocks: Blocks in all.
        block_size: Tokens per block.
        changes: What became findable and what no longer is, in order; the reader takes it away. ``None`` = nobody
            reads.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        """Make a pool; all blocks are free."""
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.changes: list[dict[str, Any]] | None = None
        self._refs = [0] * num_blocks
        self._hashes: list[int | None] = [None] * num_blocks
        self._by_hash: dict[int, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def used(self) -> int:
        """Blocks that sequences hold."""
        return self.num_blocks - len(self._free)

    @property
    def usage(self) -> float:
        """Share of the blocks that sequences hold, 0..1."""
        return self.used / self.num_blocks

    def find(self, hashes: Tokens[int]) -> list[int]:
        """The blocks of the longest known beginning of a chain of hashes."""
        found: list[int] = []
        for value in hashes:
            block = self._by_hash.get(value)
            if block is None:
                break
            found.append(block)
        return found

    def __contains__(self, value: object) -> bool:
        """Return whether a block with a hash is findable."""
        return value in self._by_hash

    def take(self, shared: Tokens[int], total: int) -> list[int] | None:
        """Get ``total`` blocks: the ``shared`` ones that :meth:`find` gave, and new ones.

        Returns:
            The blocks in order, or ``None`` (and nothing changed) if too few are free.
        """
        # Blocks that are findable and held by nobody count among the free ones.
        idle = sum(1 for block in shared if not self._refs[block])
        if total - len(shared) > len(self._free) - idle:
            return None
        for block in shared:
            if not self._refs[block]:
                del self._free[block]
            self._refs[block] += 1
        return [*shared, *(self._new() for _ in range(total - len(shared)))]

    def grow(self) -> int | None:
        """One new block, or ``None`` if none is free."""
        return self._new() if self._free else None

    def _new(self) -> int:
        block, _ = self._free.popitem(last=False)
        forgotten = self._hashes[block]
        if forgotten is not None:
            del self._by_hash[forgotten]
            self._hashes[block] = None
            if self.changes is not None:
                self._note("BlockRemoved", forgotten)
        self._refs[block] = 1
        return block

    def publish(self, block: int, value: int, parent: int | None = None) -> None:
        """Make a full block findable by its hash; the first block of a hash stays the one.

        Args:
            block: Its number.
            value: Its hash.
            parent: That of the block before it.
        """
        if value not in self._by_hash and self._hashes[block] is None:
            self._by_hash[value] = block
            self._hashes[block] = value
            if self.changes is not None:
                self._note("BlockStored", value, parent)

    def _note(self, kind: str, value: int, parent: int | None = None) -> None:
        """Note a change, in vLLM's words; a row of blocks in one."""
        changes = self.changes
        assert changes is not None
        last: dict[str, Any] = changes[-1] if changes else {"type": ""}
        if last["type"] == kind and (kind == "BlockRemoved" or last["block_hashes"][-1] == parent):
            last["block_hashes"].append(value)
        elif kind == "BlockRemoved":
            changes.append({"type": kind, "block_hashes": [value]})
        else:
            changes.append(
                {
                    "type": kind,
                    "block_hashes": [value],
                    "parent_block_hash": parent,
                    "block_size": self.block_size,
                }
            )

    def release(self, blocks: Tokens[int]) -> None:
        """Let go of a sequence's blocks; its last ones are reused first."""
        refs = self._refs
        # The last ones are free first, and so reused first: beginnings are what other prompts share.
        for block in reversed(blocks):
            refs[block] -= 1
            if not refs[block]:
                self._free[block] = None
