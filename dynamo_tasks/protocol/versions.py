"""Protocol versions, so that two releases can share one server.

``PROTOCOL`` is written into every ledger record and every script call. A process reads
records from ``MIN_READABLE`` to ``PROTOCOL``; a record of a newer protocol is left to newer peers.
"""

from __future__ import annotations

__all__ = ["MIN_READABLE", "PROTOCOL"]

PROTOCOL = 1
MIN_READABLE = 1
