"""Index of cached blocks: which workers hold the beginning of a prompt, and how much of it.

Flat: a block's hash names all tokens up to its end (:mod:`dynamo_tasks.protocol.kv.block_hashes`), so no tree is needed
to tell where a chain goes on. Each hash has a number whose bits are the workers that hold it; a look-up walks a
prompt's hashes and keeps the workers that have had all of them so far.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["KvIndex"]


class KvIndex:
    """The blocks of any number of workers. One thread."""

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        self._held: dict[int, set[int]] = {}
        self._bits: dict[int, int] = {}
        self._workers: dict[int, int] = {}
        self._free: list[int] = []

    def __len__(self) -> int:
        """Number of different blocks."""
        return len(self._holders)

    def count(self, worker: int) -> int:
        """Number of blocks that a worker holds."""
        return len(self._held.get(worker, ()))

    def workers(self) -> list[int]:
        """Workers that hold, or have held, any block."""
        return [*self._bits]

    def store(self, worker: int, hashes: Iterable[int]) -> None:
        """A worker holds further blocks."""
        holders, held, bit = self._holders, self._held.setdefault(worker, set()), self._bit(worker)
        for value in hashes:
            holders[value] = holders.get(value, 0) | bit
            held.add(value)

    def _bit(self, worker: int) -> int:
        bit = self._bits.get(worker)
        if bit is None:
            # Bits of workers that are gone are used again: the numbers grow with the fleet, and not with its restarts.
            bit = self._free.pop() if self._free else 1 << len(self._bits)
            self._bits[worker], self._workers[bit] = bit, worker
        return bit

    def remove(self, worker: int, hashes: Iterable[int]) -> None:
        """A worker holds some blocks no more; those that it did not hold count for nothing."""
        held = self._held.get(worker)
        if held is None:
            return
        holders, bit = self._holders, self._bits[worker]
        for value in hashes:
            if value in held:
                held.discard(value)
                left = holders[value] & ~bit
                if left:
                    holders[value] = left
                else:
                    del holders[value]

    def clear(self, worker: int) -> None:
        """A worker holds nothing."""
        self.remove(worker, [*self._held.get(worker, ())])

    def drop(self, worker: int) -> None:
        """Know a worker no more."""
        if worker in self._bits:
            self.clear(worker)
            del self._held[worker]
            bit = self._bits.pop(worker)
            del self._workers[bit]
            self._free.append(bit)

    def find(self, hashes: Sequence[int]) -> dict[int, int]:
        """The workers that hold the beginning of a prompt.

        Args:
            hashes: Of the prompt's blocks, in their order.

        Returns:
            Worker → number of blocks from the first one on, without a gap; those that have none are left out.

        Example:
            >>> index = KvIndex()
            >>> index.store(7, [1, 2, 3]), index.store(8, [1, 3])
            (None, None)
            >>> index.find([1, 2, 3, 4])
            {8: 1, 7: 3}
        """
        holders, found = self._holders.get, dict[int, int]()
        mask = holders(hashes[0], 0) if hashes else 0
        depth = 0
        for value in hashes:  # the hot loop: once per block of every prompt
            here = holders(value, 0) & mask
            if here != mask:
                self._note(found, mask & ~here, depth)
                mask = here
            if not mask:
                return found
            depth += 1
        self._note(found, mask, depth)
        return found

    def _note(self, found: dict[int, int], mask: int, depth: int) -> None:
        """Note how far the workers of a mask got."""
        while mask:
            bit = mask & -mask
            found[self._workers[bit]] = depth
            mask ^= bit
