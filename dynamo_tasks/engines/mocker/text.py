"""Text without end that nothing computed: pseudo-words, the same ones for the same key."""

from __future__ import annotations

from array import array
from functools import lru_cache
from hashlib import blake2b

from dynamo_tasks.engines.text.tokenizer import load_tokenizer

__all__ = ["WORDS", "PseudoText", "TokenText", "pseudo_text", "text_key", "text_keys"]

_SIZE = 128
_WORDS_PER_BLOCK = 32
_SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]


def _word(number: int) -> str:
    size = 2 + (number % 5) // 2
    return "".join(_SYLLABLES[(number * 31 + place * 17 + number // 7 * place) % 70] for place in range(size))


WORDS = [_word(number) for number in range(256)]
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
        self._data: bytes | list[int] = b""

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
        self._data = " ".join([WORDS[byte] for byte in digest])[: _SIZE - 1].encode() + b" "
        self._block = block


class TokenText(PseudoText):
    """The same words, in the tokens of another tokenizer."""

    __slots__ = ("_words",)

    def __init__(self, key: bytes, words: list[list[int]]) -> None:
        """Make the text of ``key``; ``words`` has the tokens of each of :data:`WORDS`."""
        super().__init__(key)
        self._words = words

    def _load(self, block: int) -> None:
        if block == self._block:
            return
        ids: list[int] = []
        turn = 0
        while len(ids) < _SIZE:
            number = block.to_bytes(8, "big") + turn.to_bytes(8, "big")
            digest = blake2b(number, key=self._key, digest_size=_WORDS_PER_BLOCK).digest()
            ids += [token for byte in digest for token in self._words[byte]]
            turn += 1
        self._data = ids[:_SIZE]
        self._block = block


def pseudo_text(key: bytes, tokenizer: str) -> PseudoText:
    """The text of a key, in the tokens of the tokenizer that a model card names."""
    if tokenizer == "bytes":
        return PseudoText(key)
    return TokenText(key, _tokenized(tokenizer))


@lru_cache(maxsize=16)
def _tokenized(name: str) -> list[list[int]]:
    tokenizer = load_tokenizer(name)
    return [tokenizer.encode(f" {word}", add_special_tokens=False) or [0] for word in WORDS]
