"""Loaded by a process at its start: counts the Python calls of all its threads.

It begins at the first SIGRTMIN. At each it writes them to ``$COUNTED_CALLS/<pid>`` as JSON, ``[[[root, package of ours
or "libraries"], calls], …]``, and counts on. The root is the function that the event loop, or a thread, began with. A
coroutine or a generator counts as often as it is resumed.
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
_LOOPS = (
    "asyncio/runners.py", "asyncio/base_events.py", "asyncio/events.py", "uvloop/__init__.py", "queue/worker/worker.py",
)  # fmt: skip
"""Files whose functions run an event loop."""
_OURS = f"{os.sep}dynamo_tasks{os.sep}"


class _Thread(threading.local):
    root: Any = None


_thread = _Thread()


def _count(frame: Any, event: str, arg: Any) -> None:
    if event == "call":
        caller = frame.f_back
        if caller is None or caller.f_code.co_filename.endswith(_LOOPS):
            _thread.root = frame.f_code
        _calls[_thread.root, frame.f_code] += 1


def _name(root: Any) -> str:
    """Of the function that a stack began with: file and name; nothing for the module that the process runs."""
    if root is None or root.co_qualname == "<module>":
        return ""
    return f"{os.sep.join(root.co_filename.split(os.sep)[-3:])}:{root.co_qualname}"


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
    found: Counter[Any] = Counter()
    for (root, code), calls in list(_calls.items()):
        found[_name(root), _layer(code.co_filename)] += calls
    text = json.dumps(list(found.items()))
    if os.environ.get("COUNTED_FUNCTIONS"):  # for a person who looks for savings
        text = json.dumps(
            {f"{c.co_filename}:{c.co_firstlineno}:{c.co_qualname}": n for (_, c), n in list(_calls.items())}
        )
    target = Path(os.environ["COUNTED_CALLS"]) / str(os.getpid())
    target.with_suffix(".part").write_text(text)
    target.with_suffix(".part").rename(target)


if "COUNTED_CALLS" in os.environ:
    signal.signal(signal.SIGRTMIN, _write)
    threading.setprofile(_count)
    # Until the first signal nothing is counted: a process would take thrice the time to start. Something must stand
    # there all the same when greenlets begin, which keep what they began with.
    sys.setprofile(getattr)
