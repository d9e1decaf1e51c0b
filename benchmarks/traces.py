"""Request traces in the format of Mooncake's (FAST'25): when which prompt came, and which of its blocks others share.

A line is ``{"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [...]}``; an id stands for
512 tokens and all before them, so that two prompts begin alike as far as their ids are equal.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["BLOCK", "TracedRequest", "day", "read_trace"]

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


def day(requests: Sequence[TracedRequest], hours: float, swing: float = 5.0) -> Iterator[TracedRequest]:
    """Re-time a trace to a curve with one night and one noon.

    The trace is repeated until it fills the hours, each time with prompts of its own, so that a repetition finds
    nothing in the caches. Then its clock is warped: the rate at noon is ``swing`` times that at night, and the mean
    rate is the trace's own. What is bursty within minutes stays so.

    Args:
        requests: The trace, as fast as its mean shall be.
        hours: How long the day is.
        swing: Rate at noon over the rate at night.
    """
    length, seconds = requests[-1].at + 1.0, hours * 3600.0
    depth = (swing - 1) / (swing + 1)
    repeats = math.ceil(seconds / length)
    ids = 1 + max(max(one.ids) for one in requests)
    for repeat in range(repeats):
        for one in requests:
            at = repeat * length + one.at
            if at >= seconds:
                return
            yield one._replace(at=_warp(at, seconds, depth), ids=[repeat * ids + each for each in one.ids])


def _warp(at: float, seconds: float, depth: float) -> float:
    """The time by which as many requests came under a rate of ``1 - depth·cos(2π·t/seconds)`` as by ``at`` under 1."""
    low, high = 0.0, seconds
    for _ in range(40):
        middle = (low + high) / 2
        angle = 2 * math.pi * middle / seconds
        if middle - depth * seconds / (2 * math.pi) * math.sin(angle) < at:
            low = middle
        else:
            high = middle
    return high
