"""The garbage collector of a process that serves."""

from __future__ import annotations

import gc

__all__ = ["tune_collector"]


def tune_collector() -> None:
    """Keep the garbage collector from walking what lives as long as the process, and from running often.

    Not too seldom, either: what waits in a circle for the oldest generation is memory that has grown.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
