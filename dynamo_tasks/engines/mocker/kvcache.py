"""A paged KV cache as vLLM keeps it (``vllm/v1/core/block_pool.py``): blocks, not their contents.

A block belongs to any number of sequences (``refs``). A full one also has a hash of all tokens up to
its end; with it the block can be found by other prompts that begin alike. When its last sequence lets
go, a block becomes free but stays findable until it is handed out again, least recently used first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

__all__ = ["KVCache", "chain_hash"]


def chain_hash(previous: int, tokens: Sequence[int]) -> int:
    """Hash of a full block: of its tokens and, through ``previous``, of all before them."""
    return hash((previous, *tokens))


class KVCache:
    """The pool of blocks.

    Attributes:
        num_blocks: Blocks in all.
        block_size: Tokens per block.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        """Make a pool; all blocks are free."""
        self.num_blocks = num_blocks
        self.block_size = block_size
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

    def find(self, hashes: Sequence[int]) -> list[int]:
        """The blocks of the longest known beginning of a chain of hashes."""
        found: list[int] = []
        for value in hashes:
            block = self._by_hash.get(value)
            if block is None:
                break
            found.append(block)
        return found

    def take(self, shared: Sequence[int], total: int) -> list[int] | None:
        """Get ``total`` blocks: the ``shared`` ones that :meth:`find` gave, and new ones.

        Returns:
            The blocks in order, or ``None`` (and nothing changed) if too few are free.
        """
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
        self._refs[block] = 1
        return block

    def publish(self, block: int, value: int) -> None:
        """Make a full block findable by its hash; the first block of a hash stays the one."""
        if value not in self._by_hash and self._hashes[block] is None:
            self._by_hash[value] = block
            self._hashes[block] = value

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of a sequence's blocks; its last ones are reused first."""
        refs = self._refs
        for block in reversed(blocks):
            refs[block] -= 1
            if not refs[block]:
                self._free[block] = None
