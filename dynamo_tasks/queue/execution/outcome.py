"""Outcomes of an attempt besides a value and an error of the endpoint, and what stops one."""

from __future__ import annotations

from celery.exceptions import Ignore

__all__ = ["Dropped", "EndedRevoked", "Reassigned", "Revoked", "Stop"]


class Stop(BaseException):
    """Raised inside an endpoint to stop it; ``reason`` says why.

    Attributes:
        reason: ``abort`` (ended or fenced by others: write nothing), ``cancel`` (we end it), ``deadline``,
            ``time_limit``, ``requeue`` (the worker ends, or sleeps), or ``preempt`` (released for others).
    """

    def __init__(self, reason: str, message: str = ""):
        super().__init__(message or reason)
        self.reason = reason


class Dropped(Exception):  # noqa: N818 - an answer, not an error
    """Nothing is to be done for this message: acknowledge it."""


class Revoked(Exception):  # noqa: N818
    """The request was cancelled, or it expired; Celery is still to record that."""

    def __init__(self, message: str, *, expired: bool = False):
        super().__init__(message)
        self.expired = expired


class Reassigned(Exception):  # noqa: N818
    """The request went back to its queue."""


class EndedRevoked(Ignore):  # type: ignore[misc]
    """Tells Celery's tracer to keep no result, and the request object to announce a revocation."""

    def __init__(self, message: str, *, expired: bool = False):
        super().__init__(message)
        self.expired = expired
