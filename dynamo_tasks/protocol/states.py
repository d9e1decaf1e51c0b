"""States of a request.

::

    QUEUED ──claim──▶ RUNNING ──finish──▶ SUCCEEDED | FAILED
      ▲  │               │ │
      │  │               │ └─cancel──▶ CANCELLED
      │  └─cancel/expire─┼──────────▶ CANCELLED | EXPIRED
      └────release───────┘   owner lost, Celery retry, requeue at drain
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["CELERY_STATES", "TERMINAL", "State"]


class State(StrEnum):
    """State of a request in the ledger."""

    QUEUED = "QUEUED"
    """Accepted; waits in its queue, or for ``not_before``."""
    RUNNING = "RUNNING"
    """Claimed by one live instance."""
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    """Its deadline or Celery ``expires`` passed before a worker started it."""


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED})

CELERY_STATES: dict[State, str] = {
    State.QUEUED: "PENDING",
    State.RUNNING: "STARTED",
    State.SUCCEEDED: "SUCCESS",
    State.FAILED: "FAILURE",
    State.CANCELLED: "REVOKED",
    State.EXPIRED: "REVOKED",
}
