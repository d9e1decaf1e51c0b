"""Loaded by a process at its start: counts the Python calls of all its threads.

At SIGRTMIN it writes them to ``$COUNTED_CALLS/<pid>`` as JSON, ``{package of ours or "libraries": calls}``, and
counts on. A coroutine or a generator counts as often as it is resumed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

_calls: Counter[Any] = Counter()
_OURS = f"{os.sep}dynamo_tasks{os.sep}"


def _count(frame: Any, event: str, arg: Any) -> None:
    if event == "call":
        _calls[frame.f_code] += 1


def _layer(path: str) -> str:
    """The package of ours that a file is in; everything else is one layer."""
    return path.rpartition(_OURS)[2].partition(os.sep)[0] if _OURS in path else "libraries"


def _write(number: int, frame: Any) -> None:
    sys.setprofile(None)  # it does not count itself
    try:
        _write_counts()
    finally:
        sys.setprofile(_count)


def _write_counts() -> None:
    found: Counter[str] = Counter()
    for code, calls in list(_calls.items()):
        found[_layer(code.co_filename)] += calls
    text = json.dumps(found)
    if os.environ.get("COUNTED_FUNCTIONS"):  # for a person who looks for savings
        text = json.dumps(
            {f"{c.co_filename}:{c.co_firstlineno}:{c.co_qualname}": n for c, n in list(_calls.items())}
        )
    target = Path(os.environ["COUNTED_CALLS"]) / str(os.getpid())
    target.with_suffix(".part").write_text(text)
    target.with_suffix(".part").rename(target)


if "COUNTED_CALLS" in os.environ:
    signal.signal(signal.SIGRTMIN, _write)
    threading.setprofile(_count)
    sys.setprofile(_count)
