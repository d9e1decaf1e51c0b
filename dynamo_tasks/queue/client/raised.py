"""Exceptions that a result raises: the same ones, whether it is waited for or iterated over.

Celery's ``get()`` raises what the endpoint raised; our streams end with an error of our tree. Here both are one: an
instance of the endpoint's own class and of ours. So ``except ValueError`` and ``except EndpointError`` both hold, and
``except TaskRevokedError`` as well as ``except RequestCancelledError``.
"""

from __future__ import annotations

import builtins
from ast import literal_eval
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any, cast

from celery.exceptions import CeleryError, TaskRevokedError, TimeLimitExceeded

from dynamo_tasks.errors import (
    DeadlineExceededError,
    DynamoError,
    EndpointError,
    RequestCancelledError,
    RequestExpiredError,
)
from dynamo_tasks.protocol.events import End
from dynamo_tasks.protocol.states import State

__all__ = ["REVOKED", "CancelledError", "ExpiredError", "both", "raise_end", "revoked"]


class CancelledError(RequestCancelledError, TaskRevokedError):  # type: ignore[misc]
    """The request was cancelled."""


class ExpiredError(RequestExpiredError, TaskRevokedError):  # type: ignore[misc]
    """The request waited for longer than it may."""


_KINDS = {RequestCancelledError.code: CancelledError, RequestExpiredError.code: ExpiredError}
REVOKED = {State.CANCELLED: CancelledError, State.EXPIRED: ExpiredError}
"""Ends of requests that Celery calls revoked, and their exceptions."""


def revoked(state: State, message: str | None = None) -> Exception:
    """The error of a request that was cancelled, or has expired."""
    made: Exception = REVOKED[state](message or str(state).lower())
    return made


def both(exc: Exception) -> Exception:
    """Convert an endpoint's exception, as Celery rebuilt it, into one that is an error of our tree, too."""
    if type(exc) is TaskRevokedError:
        return ExpiredError(str(exc)) if str(exc) == "expired" else CancelledError(str(exc))
    if isinstance(exc, DynamoError | CeleryError):
        return exc
    kind = _both(cast(Any, type(exc)))
    return exc if kind is None else _made(kind, exc.args, exc.__dict__).with_traceback(exc.__traceback__)


@cache
def _both(kind: type[Exception]) -> type[Exception] | None:
    ours = DeadlineExceededError if issubclass(kind, TimeLimitExceeded) else EndpointError
    shown = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    try:
        return type(kind.__name__, (ours, kind), {**shown, "__init__": _as_it_is, "__str__": kind.__str__})
    except TypeError:  # a class that cannot have a second base
        return None


def _as_it_is(self: object, *args: object, **kwargs: object) -> None:
    """Do nothing: :func:`_made` copies the attributes."""


def _made(kind: type[Exception], args: tuple[Any, ...], attributes: Mapping[str, Any]) -> Exception:
    made: Exception = kind.__new__(kind, *args)
    made.args = args
    made.__dict__.update({"param": None, "retry_after": None, **attributes})
    return made


def raise_end(end: End) -> None:
    """Raise what a stream ended with, if it did not succeed, as far as the stream has it.

    Raises:
        RequestFailedError: of the class of the endpoint's exception, too, where that is a built-in one.
    """
    if end.error is None:
        return
    known = _KINDS.get(end.error.code)
    if known is not None:
        raise known(end.error.message)
    found = getattr(builtins, end.error.type, None) if end.error.code == EndpointError.code else None
    kind = _both(cast(Any, found)) if isinstance(found, type) and issubclass(found, Exception) else None
    if kind is None:
        raise end.error.exception()
    raise _made(kind, (_argument(kind, end.error.message.removeprefix(f"{end.error.type}: ")),), {})


def _argument(kind: type[Exception], text: str) -> Any:
    """Return the argument of an exception, from its text; a ``KeyError`` has the ``repr`` of its key."""
    if issubclass(kind, KeyError):
        with suppress(ValueError, SyntaxError):
            return literal_eval(text)
    return text
