"""Signals that mean something to other programs: here they end nobody.

``SIGUSR1`` writes the stacks of all threads to stderr, as in a Celery worker; ``SIGUSR2`` does nothing. ``SIGHUP`` is
the end of a terminal, and an end in good order, unless it is ignored (``nohup``).
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import signal
import sys

__all__ = ["install_handlers"]


def install_handlers() -> None:
    """Answer them in this process; to be called in its main thread."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with contextlib.suppress(io.UnsupportedOperation, AttributeError, ValueError):  # stderr may be no file
        faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True)
