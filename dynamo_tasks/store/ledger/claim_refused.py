"""Claims that the ledger refuses, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from dynamo_tasks.protocol.events import ErrorInfo
from dynamo_tasks.protocol.states import State

__all__ = ["ClaimRefused", "Refusal", "refused"]


class Refusal:
    """Reasons for which a claim is refused."""

    DUPLICATE = "DUPLICATE"
    GONE = "GONE"
    EXPIRED = "EXPIRED"
    WAIT = "WAIT"
    NEWER = "NEWER"
    UNSETTLED = "UNSETTLED"
    FULL = "FULL"


@dataclass
class ClaimRefused(Exception):  # noqa: N818 - an answer, not an error
    """The message must not be run."""

    reason: str
    wait_ms: int = 0
    state: State | None = None
    result: bytes = b""
    error: ErrorInfo | None = None


def refused(reply: list[Any]) -> ClaimRefused:
    """Make the exception of what the ``claim`` script replied."""
    reason = reply[0].decode()
    if reason == Refusal.WAIT:
        return ClaimRefused(reason, wait_ms=int(reply[1]))
    if reason == Refusal.UNSETTLED:
        # It has ended, and Celery's links and chord have not heard: who holds the message tells them, by what is kept.
        error = msgspec.json.decode(reply[3], type=ErrorInfo) if reply[3] else None
        return ClaimRefused(reason, state=State(reply[1].decode()), result=reply[2], error=error)
    return ClaimRefused(reason)
