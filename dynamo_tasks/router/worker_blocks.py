"""The blocks of one worker's prefix cache under the names that all processes know. The worker's own side."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from dynamo_tasks.protocol.kv.block_hashes import block_hash, chained, seed_of

__all__ = ["WorkerBlocks"]

_PRIMARY = (None, "GPU")
"""The medium of blocks that need no copy; those in other memories are not followed."""


class WorkerBlocks:
    """Names the blocks of an engine's events, and knows which are cached now.

    An engine's own hashes are opaque, and may be other ones after its next start. A stored block that follows one that
    is not known (its event was lost) stays unknown. An engine that stores the same block twice has it once here.

    Args:
        block_size: Tokens per block; events of others are passed over.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._names: dict[Hashable, int] = {}
        self._cached: set[int] = set()

    def name(self, event: Mapping[str, Any], rank: int | None = None) -> dict[str, Any]:
        """An event with ``sequence_hashes``.

        Args:
            event: As the engine reports it: ``{"type", "block_hashes", "parent_block_hash", "token_ids", …}``; one
                without ``token_ids`` has our names as ``block_hashes``.
            rank: Of the engine's process, where there are several with a cache each.
        """
        kind = event.get("type")
        if kind == "BlockStored":
            return {**event, "sequence_hashes": [*self._stored(event, rank or 0)]}
        if kind == "BlockRemoved" and event.get("medium") in _PRIMARY:
            return {**event, "sequence_hashes": [*self._removed(event["block_hashes"], rank or 0)]}
        if kind == "AllBlocksCleared":
            self.clear()
        return dict(event)

    def _stored(self, event: Mapping[str, Any], rank: int) -> Iterator[int]:
        hashes, ids, size = event["block_hashes"], event.get("token_ids"), self.block_size
        if event.get("block_size") != size or event.get("medium") not in _PRIMARY or event.get("group_idx"):
            return
        parent = event.get("parent_block_hash")
        previous = None if parent is None else self._names.get((rank, parent))
        if parent is not None and previous is None:
            return
        keys = event.get("extra_keys") or ()
        for place, own in enumerate(hashes):
            if ids is None:
                previous = own
            else:
                salt = _salt(event, keys[place] if place < len(keys) else None)
                lora = str(event.get("lora_name") or "")
                tokens = ids[place * size : (place + 1) * size]
                previous = chained(previous, block_hash(tokens, seed_of(lora, salt)))
            assert previous is not None
            self._names[(rank, own)] = previous
            self._cached.add(previous)
            yield previous

    def _removed(self, hashes: Iterable[Hashable], rank: int) -> Iterator[int]:
        for own in hashes:
            known = self._names.pop((rank, own), None)
            if known is not None:
                self._cached.discard(known)
                yield known

    def clear(self) -> None:
        """Nothing is cached."""
        self._names.clear()
        self._cached.clear()

    def cached(self) -> list[int]:
        """All that is cached now."""
        return [*self._cached]

    def __contains__(self, name: object) -> bool:
        """Return whether a block is cached now."""
        return name in self._cached

    def overlap(self, hashes: Sequence[int]) -> int:
        """The number of blocks at the beginning of a prompt that are cached."""
        cached = self._cached
        return next((place for place, value in enumerate(hashes) if value not in cached), len(hashes))


def _salt(event: Mapping[str, Any], keys: Iterable[Any] | None) -> str:
    """The rest that a block's hash is of: the salt of a first block; or images, which have no names here."""
    lora = event.get("lora_name")
    return "\0".join(str(key) for key in keys or () if key != lora)
