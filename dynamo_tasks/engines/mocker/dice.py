"""Numbers and words that a key decides: the same ones in every process and release."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

from dynamo_tasks.engines.mocker.text import WORDS

__all__ = ["Dice"]

T = TypeVar("T")


class Dice:
    """Numbers without end, one after another."""

    def __init__(self, key: bytes) -> None:
        """Begin; ``key`` has up to 64 bytes."""
        self._key = key
        self._thrown = 0

    def below(self, count: int) -> int:
        """The next number, from 0 to below ``count``."""
        self._thrown += 1
        digest = blake2b(self._thrown.to_bytes(8, "big"), key=self._key, digest_size=8).digest()
        return int.from_bytes(digest, "big") % count

    def choose(self, items: Sequence[T]) -> T:
        """One of some items."""
        return items[self.below(len(items))]

    def words(self, count: int) -> str:
        """So many pseudo-words, with blanks between them."""
        return " ".join([self.choose(WORDS) for _ in range(count)])

    def hex(self, digits: int) -> str:
        """So many hexadecimal digits."""
        return (
            f"{self.below(16**digits):0{digits}x}" if digits <= 16 else self.hex(16) + self.hex(digits - 16)
        )
