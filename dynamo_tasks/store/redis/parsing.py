"""Refusals as redis-py raises them: the errors of :mod:`~dynamo_tasks.store.redis.refusals` on its connections.

redis-py knows a class for some refusals only, and kombu takes most of them for faults of a channel, which end a
worker. What passes by itself counts as a lost connection here: kombu and Celery know how to wait for one.
"""

from __future__ import annotations

from typing import Any

import redis.connection
from redis.exceptions import BusyLoadingError, ExceptionType, RedisError, ResponseError

from dynamo_tasks.errors import DynamoError, ServerFullError, ServerRefusedError
from dynamo_tasks.store.redis.refusals import PASSING, code_of, refusal

__all__ = ["Parser", "RefusedReplyError", "refusal_of"]


class RefusedReplyError(ServerRefusedError, ResponseError):
    """A refusal that passes by itself, as the reply to a command of redis-py's.

    Its pipelines put the command and its arguments in front of an error's text: results and prompts have no place in
    a log, so the text stays what it was.
    """

    error_type = ExceptionType.SERVER
    status_code: str | None = None

    def __init__(self, message: str, *, retry_after: float | None = None):
        super().__init__(message, retry_after=retry_after)
        self._said = message

    def __str__(self) -> str:
        return self._said

    @property
    def message(self) -> str:
        """The text of the error."""
        return self._said


class _FullReplyError(ServerFullError, RefusedReplyError):
    """The same, for want of memory."""


_Parser: Any = redis.connection.DefaultParser


class Parser(_Parser):  # type: ignore[misc]
    """redis-py's parser; to be given to its connections as ``parser_class``."""

    @classmethod
    def parse_error(cls, response: str) -> Exception:
        """Make an error of a reply: one of our tree where it passes by itself."""
        theirs: Any = super().parse_error(response)
        # What redis-py has for a lost connection already (LOADING, maxclients) its own retries look for.
        if not isinstance(theirs, ResponseError):
            return theirs  # type: ignore[no-any-return]
        ours = _passing(response)
        return theirs if ours is None else ours


def _passing(text: str) -> RefusedReplyError | None:
    if code_of(text) not in PASSING:
        return None
    error = refusal(text)
    kind = _FullReplyError if isinstance(error, ServerFullError) else RefusedReplyError
    return kind(error.message, retry_after=error.retry_after)


def refusal_of(exc: RedisError) -> DynamoError:
    """The error of our tree for one of redis-py's."""
    if isinstance(exc, DynamoError):
        return exc
    if isinstance(exc, BusyLoadingError):
        return refusal("LOADING")
    return refusal(" ".join(filter(None, (exc.status_code, str(exc)))))
