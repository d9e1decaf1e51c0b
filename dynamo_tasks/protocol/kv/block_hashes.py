"""Hashes of KV blocks: a name for a block's tokens and all tokens before them, the same in every process.

As NVIDIA Dynamo's (``dynamo._core.compute_block_hash_for_seq``, 1.6.1): XXH3-64 with the seed 1337 over the token ids
as little-endian 32-bit numbers, of full blocks alone; the name of a LoRA adapter is added to the seed. The hash of a
sequence of blocks is that of its first block, then of ``(hash of the sequence before, hash of the block)``. A salt
changes the first block's seed, and so all that follows.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence

from xxhash import xxh3_64_intdigest as _xxh3

__all__ = ["SEED", "block_hash", "chained", "seed_of", "sequence_hashes"]

SEED = 1337
_MASK = (1 << 64) - 1
_PAIR = struct.Struct("<QQ").pack
_SALT = b"salt\0"


def seed_of(lora: str = "", salt: str = "") -> int:
    """The seed of blocks under an adapter and, of a prompt's first block, under a salt."""
    seed = SEED
    if lora:
        seed += _xxh3(lora.encode())
    if salt:
        seed += _xxh3(_SALT + salt.encode())
    return seed & _MASK


def block_hash(tokens: Sequence[int], seed: int = SEED) -> int:
    """The hash of one block by itself.

    Args:
        tokens: Its ids, 0 to 2^32 - 1.
        seed: See :func:`seed_of`.

    Example:
        >>> f"{block_hash(range(4)):x}"
        '7ee2cbedc694ab46'
    """
    return _xxh3(_bytes(tokens), seed)


def _bytes(tokens: Sequence[int]) -> bytes:
    packed = array("I", tokens)
    if sys.byteorder != "little":
        packed.byteswap()
    return packed.tobytes()


def chained(previous: int | None, own: int) -> int:
    """The hash of a sequence of blocks that goes on with a block.

    Args:
        previous: Of the sequence before it; ``None`` = it is the first.
        own: The block's own hash.
    """
    return own if previous is None else _xxh3(_PAIR(previous, own), SEED)


def sequence_hashes(tokens: Sequence[int], size: int, lora: str = "", salt: str = "") -> list[int]:
    """The hashes of the sequences that end with each full block of a prompt.

    Args:
        tokens: Ids of the prompt.
        size: Tokens per block.
        lora: The adapter that computes it; empty = none.
        salt: It shares blocks with prompts of the same salt alone.

    Example:
        >>> whole = sequence_hashes(range(12), 4)
        >>> whole[:2] == sequence_hashes(range(11), 4), whole[0] == sequence_hashes(range(4), 4, salt="mine")[0]
        (True, False)
    """
    data, width, seed = _bytes(tokens), 4 * size, seed_of(lora)
    ends = range(width, len(data) + 1, width)
    found: list[int] = []
    previous = 0
    for end in ends:  # the hot loop: once per block of every prompt
        if found:
            previous = _xxh3(_PAIR(previous, _xxh3(data[end - width : end], seed)), SEED)
        else:
            previous = _xxh3(data[:end], seed_of(lora, salt) if salt else seed)
        found.append(previous)
    return found
