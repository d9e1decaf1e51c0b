"""Containment of input that cannot be used: it is counted, logged at a limited rate, and passed over.

Anybody who reaches Redis may write or publish anything. One thing that cannot be read must not keep a process from
looking after all the others, so every loop that goes over many of them holds each one in :func:`contained`.
"""

from __future__ import annotations

from collections import defaultdict
from types import TracebackType

from dynamo_tasks.errors import DynamoError, ServerUnavailableError
from dynamo_tasks.observe import metrics
from dynamo_tasks.observe.log import event
from dynamo_tasks.observe.throttle import LogThrottle
from dynamo_tasks.protocol.events import UNREADABLE
from dynamo_tasks.store.redis.refusals import ReplyError, code_of

__all__ = ["MALFORMED", "contained", "is_wrong_type", "pass_over"]

MALFORMED = (*UNREADABLE, AttributeError, LookupError, OverflowError, TypeError)
"""Exceptions that code raises over a value of another shape than it expects."""
_SHOWN = 200
_calm: defaultdict[str, LogThrottle] = defaultdict(LogThrottle)


def pass_over(where: str, name: str, error: BaseException) -> None:
    """Count something that cannot be used, and log it, at a limited rate.

    Args:
        where: Which way it came; one of those that ``input_refused_total`` lists.
        name: What it is.
        error: What is wrong with it.
    """
    metrics.counter("input_refused_total", where=where).inc()
    if _calm[where].due():
        event("store.unreadable", name=name[:_SHOWN], error=f"{type(error).__name__}: {error}"[:_SHOWN])


def is_wrong_type(error: DynamoError) -> bool:
    """Return whether Redis refused a command because the key holds another type than ours (``WRONGTYPE``)."""
    return isinstance(error, ReplyError) and code_of(error.text) == "WRONGTYPE"


class contained:  # noqa: N801 - reads as contextlib's do, and costs half of one that is made by a generator
    """Pass over what is in this block if it cannot be read, or Redis refuses it; a lost connection goes through.

    Args:
        where: See :func:`pass_over`.
        name: What it is about.
    """

    __slots__ = ("_name", "_where")

    def __init__(self, where: str, name: str):
        self._where, self._name = where, name

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, (DynamoError, *MALFORMED)) or isinstance(error, ServerUnavailableError):
            return False
        pass_over(self._where, self._name, error)
        return True
