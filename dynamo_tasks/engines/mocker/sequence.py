"""Sequences of tokens that a simulated scheduler works on, their text, and their consumers."""

from __future__ import annotations

import asyncio
from array import array
from enum import Enum
from hashlib import blake2b

from dynamo_tasks.errors import DynamoError

__all__ = ["PseudoText", "Run", "Sequence", "SequenceState", "text_key", "text_keys"]

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
        root: What the hash of its first block begins with: only sequences of the same root share blocks.
    """

    __slots__ = (
        "blocks", "chunk", "computed", "context", "hashes", "limit", "milestone", "produced",
        "prompt", "published", "rank", "root", "run", "state", "taken", "text",
    )  # fmt: skip

    def __init__(
        self,
        run: Run,
        prompt: list[int],
        text: PseudoText,
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
        self.root = 0 if salt is None else hash((salt,))
        self.published = self.computed = self.context = self.chunk = self.milestone = 0

    def tokens(self, start: int, stop: int) -> list[int]:
        """Tokens of prompt + output."""
        size = len(self.prompt)
        if stop <= size:
            return self.prompt[start:stop]
        return self.prompt[start:size] + self.text.ids(max(0, start - size), stop - size)
