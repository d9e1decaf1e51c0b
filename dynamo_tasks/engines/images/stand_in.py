"""Tokens of images for an engine that looks at none: a function of their bytes, as many as their sizes would need."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from dynamo_tasks.engines.images.header import read_header

__all__ = ["expand_images", "image_tokens"]

_SQUARE = 28
"""Pixels of the side of the square that is one token, as for Qwen-VL."""
_MOST = 1024
"""Tokens of the largest image."""


def image_tokens(data: bytes) -> list[int]:
    """The tokens of an image: values of bytes, by a hash of its file."""
    header = read_header(data)
    squares = -(-header.width // _SQUARE) * -(-header.height // _SQUARE)
    return list(hashlib.shake_128(data).digest(min(squares, _MOST)))


def expand_images(ids: list[int], mark: Sequence[int], images: Sequence[bytes]) -> list[int]:
    """A prompt in which the tokens of each image stand where its placeholder stood.

    Args:
        ids: Of the prompt.
        mark: The placeholder's. Images for which there is none come at the end.
        images: In order.
    """
    out: list[int] = []
    left, at, size = list(images), 0, len(mark)
    while left and at < len(ids):
        if ids[at] == mark[0] and ids[at : at + size] == list(mark):
            out += image_tokens(left.pop(0))
            at += size
        else:
            out.append(ids[at])
            at += 1
    return out + ids[at:] + [token for data in left for token in image_tokens(data)]
