"""The arguments of a call, which Celery counts and names, as the one argument that an endpoint takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import Parameter
from typing import Any

from dynamo_tasks.errors import InvalidRequestError

__all__ = ["payload_of", "positional"]


def positional(name: str, declared: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Arguments without keywords: the one keyword that an endpoint may have is the name of its argument.

    Args:
        name: Of the task.
        declared: The endpoint; ``None`` where this process knows its name only.
        args: As the caller gave them.
        kwargs: The same.

    Raises:
        InvalidRequestError: a keyword is not the argument's name.
    """
    if not kwargs:
        return tuple(args)
    argument = declared.argument if declared is not None else None
    unknown = sorted(str(key) for key in kwargs if argument is None or key != argument.name)
    if unknown:
        takes = f"one argument, {argument.name!r}" if argument is not None else _takes_nothing(declared)
        raise InvalidRequestError(f"{name} takes {takes}; got the keyword {', '.join(map(repr, unknown))}")
    return (*args, *kwargs.values())


def _takes_nothing(declared: Any) -> str:
    return "no argument" if declared is not None else "one positional argument"


def payload_of(name: str, declared: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The endpoint's one argument. A chain passes the previous result first: mappings are merged, later ones win.

    Raises:
        InvalidRequestError: there are too many, or none for an endpoint that needs one.
    """
    given = positional(name, declared, args, kwargs)
    if declared is not None and declared.argument is None:
        if any(value is not None for value in given):
            raise InvalidRequestError(f"{name} takes no argument")
        return None
    if not given:
        return _nothing(name, declared)
    if len(given) == 1:
        return given[0]
    if all(isinstance(value, dict) for value in given):
        return {key: item for value in given for key, item in value.items()}
    raise InvalidRequestError(f"{name} takes one argument, not {len(given)}")


def _nothing(name: str, declared: Any) -> None:
    """Return ``None`` for an argument that was not given, if it has a default: the function applies that."""
    if declared is not None and declared.argument.default is Parameter.empty:
        raise InvalidRequestError(f"{name} takes one argument, {declared.argument.name!r}: none was given")
