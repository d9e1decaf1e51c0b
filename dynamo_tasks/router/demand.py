"""The demand of one worker's requests: prompt tokens yet to compute, and KV blocks. The worker's own side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

__all__ = ["WorkerDemand"]


class WorkerDemand:
    """Counts the requests that a worker has, from when they come to their end.

    An engine says what those that run hold; those that wait inside of it count here as well, and a prefix that several
    of them share counts once.

    Attributes:
        prefill_tokens: Tokens of prompts that have yet to be computed, as far as is known without the engine.
    """

    def __init__(self) -> None:
        self.prefill_tokens = 0
        self._live: dict[str, tuple[int, Sequence[int]]] = {}
        self._held: Counter[int] = Counter()

    @property
    def blocks(self) -> int:
        """KV blocks of their prompts."""
        return len(self._held)

    def blocks_with(self, hashes: Sequence[int]) -> int:
        """KV blocks of their prompts and of another one."""
        held = self._held
        return len(held) + sum(value not in held for value in hashes)

    def begin(self, request_id: str, uncached: int, hashes: Sequence[int]) -> None:
        """A request came.

        Args:
            request_id: Its id; another one with the same id ends.
            uncached: Tokens of its prompt that the cache does not have.
            hashes: Of the blocks of its prompt.
        """
        self.end(request_id)
        self._live[request_id] = uncached, hashes
        self._held.update(hashes)
        self.prefill_tokens += uncached

    def prefilled(self, request_id: str) -> None:
        """Its first token is there; a second call does nothing."""
        if (found := self._live.get(request_id)) is not None:
            self._live[request_id] = 0, found[1]
            self.prefill_tokens -= found[0]

    def end(self, request_id: str) -> None:
        """It has ended; a second call does nothing."""
        found = self._live.pop(request_id, None)
        if found is None:
            return
        self.prefill_tokens -= found[0]
        held = self._held
        for value in found[1]:
            held[value] -= 1
            if not held[value]:
                del held[value]
