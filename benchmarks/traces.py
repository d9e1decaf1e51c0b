"""Request traces in the format of Mooncake's (FAST'25): when which prompt came, and which of its blocks others share.

A line is ``{"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [...]}``; an id stands for
512 tokens and all before them, so that two prompts begin alike as far as their ids are equal.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["BLOCK", "TracedRequest", "read_trace"]

BLOCK = 512
"""Tokens that one id of a trace stands for."""


class TracedRequest(NamedTuple):
    """One request of a trace.

    Attributes:
        at: Seconds from the begin of the trace.
        prompt: Tokens.
        output: Tokens.
        ids: Of its blocks of :data:`BLOCK` tokens, the last of which may be partial.
    """

    at: float
    prompt: int
    output: int
    ids: list[int]

    def hashes(self, size: int) -> list[int]:
        """Hashes of its full blocks of ``size`` tokens, each with all tokens before it."""
        each = BLOCK // size
        return [self.ids[place // each] * each + place % each for place in range(self.prompt // size)]


def read_trace(path: Path, speedup: float = 1.0, most: int | None = None) -> Iterator[TracedRequest]:
    """Read a trace, plain or gzipped.

    Args:
        path: The file.
        speedup: Requests come so many times faster.
        most: Only the first so many.
    """
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for number, line in enumerate(lines):
            if number == most:
                return
            row = json.loads(line)
            yield TracedRequest(
                row["timestamp"] / 1000 / speedup, row["input_length"], row["output_length"], row["hash_ids"]
            )
