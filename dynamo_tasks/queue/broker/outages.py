"""Waiting for results goes on while Redis is away: what cannot be asked now is asked again."""

from __future__ import annotations

from typing import Any

from celery.result import ResultSet

from dynamo_tasks.errors import ServerUnavailableError

__all__ = ["is_away", "raise_known_error", "while_away"]


def is_away(backend: Any, exc: Exception) -> bool:
    """Return whether an error means that Redis cannot be asked now.

    Args:
        backend: Celery's result backend; those that are no Redis do not say which errors mean that.
        exc: Of a question to it, or to the ledger.
    """
    return isinstance(exc, (ServerUnavailableError, *getattr(backend, "connection_errors", ())))


class while_away:  # noqa: N801 - used as a word
    """A ``with`` block in which what is tried may fail because Redis is away.

    Args:
        backend: See :func:`is_away`.
    """

    def __init__(self, backend: Any):
        self._backend = backend

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: Any, exc: BaseException | None, trace: Any) -> bool:
        """Swallow an error that means that Redis is away."""
        return isinstance(exc, Exception) and is_away(self._backend, exc)


def raise_known_error(node: Any) -> None:
    """Raise what a result ended with, if it is known that it failed; ask, if Redis answers.

    Args:
        node: A result or a set of them.
    """
    if isinstance(node, ResultSet):
        for child in node.results:
            raise_known_error(child)
        return
    if _outcome(node) is None:
        with while_away(node.backend):
            node._get_task_meta()
    if _outcome(node) is not None:
        # Outside: what the task raised may be an OSError, too.
        node.maybe_throw()


def _outcome(node: Any) -> Any:
    return getattr(node, "_cache", None)
