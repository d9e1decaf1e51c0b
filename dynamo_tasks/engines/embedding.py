"""Embeddings without a model: hashed n-grams of tokens.

Every n-gram adds or subtracts its weight at one place of the vector, both chosen by its hash
(feature hashing, Weinberger et al. 2009). Texts that share n-grams get similar vectors.
"""

from __future__ import annotations

import asyncio
import math
from array import array
from zlib import crc32

from dynamo_tasks.engines.base import EmbeddingResult
from dynamo_tasks.engines.text.fields import integer, token_ids
from dynamo_tasks.engines.text.prompts import check_text, too_long
from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.engines.text.tokenizer import Tokenizer
from dynamo_tasks.errors import InvalidRequestError

__all__ = [
    "DEFAULT_DIMENSIONS",
    "MAX_DIMENSIONS",
    "MAX_NUMBERS",
    "check_input",
    "embed_all",
    "encode_inputs",
    "hash_vector",
]

DEFAULT_DIMENSIONS = 256
MAX_DIMENSIONS = 8192
MAX_NUMBERS = 1 << 22
"""Numbers of one answer: 40 MB of them."""
_WEIGHTS = {1: 0.3, 2: 0.6, 3: 1.0, 4: 1.0, 5: 1.0}
"""Weight by length of the n-gram: single bytes say little about a text."""


def hash_vector(ids: list[int], dimensions: int) -> list[float]:
    """The unit vector of ``dimensions`` floats of at least one token; the same in every process."""
    vector = [0.0] * dimensions
    packed = array("I", ids).tobytes()
    width = len(packed) // len(ids)
    for size, weight in _WEIGHTS.items():
        span = size * width
        for start in range(0, len(packed) - span + 1, width):
            value = crc32(packed[start : start + span], size)
            vector[(value >> 1) % dimensions] += weight if value & 1 else -weight
    norm = math.sqrt(sum(x * x for x in vector))
    if not norm:  # all n-grams cancelled each other, possible in very few dimensions
        vector[crc32(packed) % dimensions] = norm = 1.0
    return [x / norm for x in vector]


async def embed_all(
    inputs: list[str | list[int]], dimensions: int | None, tokenizer: Tokenizer, max_model_len: int
) -> EmbeddingResult:
    """Embed inputs one by one; the event loop turns in between.

    Args:
        inputs: Texts, or token ids; at least one.
        dimensions: 1..:data:`MAX_DIMENSIONS`, by default :data:`DEFAULT_DIMENSIONS`.
        tokenizer: For the texts.
        max_model_len: Most tokens of one input; 0 = no limit.

    Raises:
        InvalidRequestError: ``param`` is ``dimensions`` or, for example, ``input[3]``.
    """
    size = DEFAULT_DIMENSIONS if dimensions is None else dimensions
    size = integer(size, "dimensions", 1, MAX_DIMENSIONS)
    if len(inputs) * size > MAX_NUMBERS:
        raise InvalidRequestError(
            f"{len(inputs)} inputs of {size} dimensions are more than {MAX_NUMBERS} numbers; send fewer at a time",
            param="input",
        )
    encoded = await encode_inputs(inputs, tokenizer, max_model_len)
    vectors: list[list[float]] = []
    for ids in encoded:
        vectors.append(await offload(len(ids) + size // 4, hash_vector, ids, size))
        await asyncio.sleep(0)
    return EmbeddingResult(vectors, sum(map(len, encoded)))


async def encode_inputs(
    inputs: list[str | list[int]], tokenizer: Tokenizer, max_model_len: int
) -> list[list[int]]:
    """The ids of each input; see :func:`embed_all`."""
    if not inputs:
        raise InvalidRequestError("input is empty; at least one text is needed", param="input")
    return await offload(sum(map(len, inputs)), _encoded, inputs, tokenizer, max_model_len)


def _encoded(inputs: list[str | list[int]], tokenizer: Tokenizer, longest: int) -> list[list[int]]:
    return [_ids(item, f"input[{i}]", tokenizer, longest) for i, item in enumerate(inputs)]


def _ids(item: str | list[int], at: str, tokenizer: Tokenizer, longest: int) -> list[int]:
    check_input(item, at, tokenizer, longest)
    ids = tokenizer.encode(item) if isinstance(item, str) else token_ids(item, at, tokenizer.vocab_size)
    if not ids:
        raise InvalidRequestError(f"{at} is empty; at least one token is needed", param=at)
    if longest and len(ids) > longest:
        raise too_long(longest, len(ids), param=at)
    return ids


def check_input(item: str | list[int], at: str, tokenizer: Tokenizer, longest: int) -> None:
    """Refuse an input that surely is too long, without tokenizing it.

    Raises:
        ContextLengthError: It is.
    """
    if isinstance(item, str):
        check_text(item, tokenizer, longest, at)
    elif longest and len(item) > longest:
        raise too_long(longest, len(item), param=at)
