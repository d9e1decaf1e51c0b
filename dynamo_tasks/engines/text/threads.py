"""Threads that read a client's text beside the event loop, unless the text is small."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import ParamSpec, TypeVar

__all__ = ["INLINE", "offload"]

INLINE = 4096
"""Bytes, characters or tokens that are read at once: 3 ms in a slow tokenizer, where a thread would cost 0.1 ms."""
_THREADS = 2
"""More would only take the interpreter from the loop: what runs without it, as tokenizers do, has two cores by then."""

P = ParamSpec("P")
T = TypeVar("T")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="prompts")


async def offload(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function here, or in a thread where its input is large.

    Args:
        size: Of its input; up to :data:`INLINE` it is called here.
        function: Needs nothing of the loop.
        *args: Its arguments.
        **kwargs: Likewise.
    """
    if size <= INLINE:
        return function(*args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_pool(), lambda: function(*args, **kwargs))
