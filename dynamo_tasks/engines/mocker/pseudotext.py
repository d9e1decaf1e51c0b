"""Readable text that is a pure function of a key and a position."""

from __future__ import annotations

from array import array
from hashlib import blake2b

__all__ = ["PseudoText", "text_key", "text_keys"]

_SIZE = 128
_WORDS_PER_BLOCK = 32
_SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]


def _word(number: int) -> str:
    size = 2 + (number % 5) // 2
    return "".join(_SYLLABLES[(number * 31 + place * 17 + number // 7 * place) % 70] for place in range(size))


_WORDS = [_word(number) for number in range(256)]
"""One pseudo-word of 4 to 8 letters for each value of a byte."""


def text_key(prompt: list[int], seed: int, index: int) -> bytes:
    """The key of one choice of a request."""
    return text_keys(prompt, seed, index + 1)[index]


def text_keys(prompt: list[int], seed: int, n: int) -> list[bytes]:
    """The keys of all choices; the prompt, which may be long, is read once."""
    read = blake2b(array("Q", prompt).tobytes(), digest_size=32)
    keys: list[bytes] = []
    for index in range(n):
        digest = read.copy()
        digest.update(f"|{seed}|{index}".encode())
        keys.append(digest.digest())
    return keys


class PseudoText:
    """ASCII words without end, one token per byte.

    Every 128 characters come from a hash of the key and their number, so that any position can be
    read without those before it.
    """

    __slots__ = ("_block", "_data", "_key")

    def __init__(self, key: bytes) -> None:
        """Make the text of ``key``."""
        self._key = key
        self._block = -1
        self._data = b""

    def ids(self, start: int, stop: int) -> list[int]:
        """The tokens at positions ``start`` to below ``stop``."""
        block, offset = divmod(start, _SIZE)
        if block == self._block and offset + stop - start <= _SIZE:
            return list(self._data[offset : offset + stop - start])
        out: list[int] = []
        while start < stop:
            block, offset = divmod(start, _SIZE)
            self._load(block)
            piece = self._data[offset : offset + stop - start]
            out += piece
            start += len(piece)
        return out

    def _load(self, block: int) -> None:
        if block == self._block:
            return
        digest = blake2b(block.to_bytes(8, "big"), key=self._key, digest_size=_WORDS_PER_BLOCK).digest()
        self._data = " ".join([_WORDS[byte] for byte in digest])[: _SIZE - 1].encode() + b" "
        self._block = block
