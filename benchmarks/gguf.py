"""Reads a GGUF file: what it says of the model, and its weights as float32.

As much of the format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) as :mod:`benchmarks.real_model` needs:
versions 2 and 3, little-endian, with weights in F32, F16, Q4_1 and Q8_0.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Gguf"]

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_BLOCK = 32
"""Weights that share a scale."""


class _Tensor(NamedTuple):
    shape: tuple[int, ...]
    kind: int
    offset: int


class _Kind(NamedTuple):
    """How weights are stored: so many of them in a block of so many bytes."""

    weights: int
    size: int
    read: Callable[[Any], Any]


def _q4_1(blocks: Any) -> Any:
    """Per block a scale, a minimum, and 4 bits per weight: the low halves of the bytes, then the high ones."""
    scale, least = (blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32) for at in (0, 2))
    packed = blocks[:, 4:]
    return np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32) * scale + least


def _q8_0(blocks: Any) -> Any:
    """Per block a scale, and a signed byte per weight."""
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    return blocks[:, 2:].copy().view(np.int8).astype(np.float32) * scale


_KINDS = {
    0: _Kind(1, 4, lambda blocks: blocks.view(np.float32)),
    1: _Kind(1, 2, lambda blocks: blocks.view(np.float16).astype(np.float32)),
    3: _Kind(_BLOCK, 20, _q4_1),
    8: _Kind(_BLOCK, 34, _q8_0),
}


class Gguf:
    """A file, mapped and not read before it is needed.

    Attributes:
        fields: What the file says of the model, by key, such as ``llama.block_count``.
    """

    def __init__(self, file: Path) -> None:
        """Read the head.

        Raises:
            ValueError: No GGUF file, or of another version.
        """
        self._bytes = np.memmap(file, np.uint8, "r")
        self._at = 0
        if bytes(self._bytes[:4]) != b"GGUF":
            raise ValueError(f"{file} is no GGUF file")
        _, version, tensors, fields = self._take("4sIQQ")
        if version not in (2, 3):
            raise ValueError(f"{file} has version {version} of GGUF; 2 and 3 are known")
        self.fields: dict[str, Any] = {self._string(): self._value(self._take("I")[0]) for _ in range(fields)}
        self._tensors = dict(self._tensor() for _ in range(tensors))
        alignment = self.fields.get("general.alignment", 32)
        self._data = -(-self._at // alignment) * alignment

    def names(self) -> list[str]:
        """Of the weights."""
        return list(self._tensors)

    def weight(self, name: str) -> Any:
        """A weight as float32, rows first.

        Raises:
            ValueError: It is stored in a way that is not known here.
        """
        tensor = self._tensors[name]
        if tensor.kind not in _KINDS:
            raise ValueError(f"{name} is stored as kind {tensor.kind}; known: {sorted(_KINDS)}")
        kind = _KINDS[tensor.kind]
        start, blocks = self._data + tensor.offset, prod(tensor.shape) // kind.weights
        raw = self._bytes[start : start + blocks * kind.size].reshape(blocks, kind.size)
        return kind.read(raw).reshape(tensor.shape)

    def _take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self._bytes, self._at)
        self._at += struct.calcsize(f"<{layout}")
        return values

    def _string(self) -> str:
        (size,) = self._take("Q")
        self._at += size
        return bytes(self._bytes[self._at - size : self._at]).decode()

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            kind, count = self._take("IQ")
            return [self._value(kind) for _ in range(count)]
        return self._take(_SCALARS[kind])[0]

    def _tensor(self) -> tuple[str, _Tensor]:
        name = self._string()
        (dimensions,) = self._take("I")
        *shape, kind, offset = self._take(f"{dimensions}QIQ")
        return name, _Tensor(tuple(reversed(shape)), kind, offset)
