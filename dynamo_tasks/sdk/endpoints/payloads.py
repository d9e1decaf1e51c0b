"""Payloads at the edge of an endpoint: requests are validated, values become plain data."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from dynamo_tasks.errors import DynamoError, EndpointError, InvalidRequestError
from dynamo_tasks.protocol.plain import NOT_PLAIN, to_plain

if TYPE_CHECKING:
    from dynamo_tasks.sdk.endpoints.declared import Declared

__all__ = [
    "ANYTHING",
    "Validator",
    "give_plain",
    "make_validator",
    "not_plain",
    "plain_request",
    "to_plain",
]

Validator = Callable[[Any], Any]
ANYTHING = (Any, inspect.Parameter.empty, object)
"""Annotations that refuse no request."""

_MISSING = re.compile(r"required field `([^`]+)`")
_AT = re.compile(r" - at `\$\.?(.*)`$")


def make_validator(annotation: Any, argument: str, *, strict: bool = True) -> Validator:
    """Make the check of a request.

    Args:
        annotation: Type of the endpoint's argument: a pydantic model, msgspec struct, dataclass, TypedDict,
            builtin or generic of them; ``Any`` or no annotation takes anything.
        argument: Name of the argument: the field that is at fault when the request as a whole is.
        strict: Whether text is no number; not so for values that came as text, as those of a query string.

    Returns:
        A function from the payload to the converted request; it raises
        :class:`~dynamo_tasks.errors.InvalidRequestError` with the field's path as ``param``.
    """
    if annotation in ANYTHING:
        return _anything
    if _is_pydantic(annotation):
        return _pydantic_validator(annotation, argument)
    return _msgspec_validator(annotation, argument, strict)


def _anything(payload: Any) -> Any:
    return payload


def _is_pydantic(annotation: Any) -> bool:
    """Return whether a type is a pydantic model; asks only a pydantic that is loaded already."""
    pydantic = sys.modules.get("pydantic")
    return (
        pydantic is not None and isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)
    )


def _pydantic_validator(model: Any, argument: str) -> Validator:
    import pydantic

    def validate(payload: Any) -> Any:
        try:
            return model.model_validate(payload)
        except pydantic.ValidationError as exc:
            path, text = _first_fault(exc)
            param = path.removeprefix(".") or argument
            raise InvalidRequestError(f"{param}: {text}", param=param) from exc

    return validate


def _first_fault(exc: Any) -> tuple[str, str]:
    """Path and text of the first thing that pydantic found: ``.items[0].name``."""
    first = exc.errors(include_url=False, include_input=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return path, str(first["msg"])


class _NestedError(ValueError):
    """A validation error of pydantic in a model that is nested in another type."""

    def __init__(self, path: str, text: str):
        super().__init__(text)
        self.path = path


def _convert_nested(wanted: Any, payload: Any) -> Any:
    """A pydantic model in a list, a union, a struct, …; msgspec itself refuses other types that it doesn't know."""
    if not _is_pydantic(wanted):
        return payload
    import pydantic

    try:
        return wanted.model_validate(payload)
    except pydantic.ValidationError as exc:
        raise _NestedError(*_first_fault(exc)) from exc


def _msgspec_validator(annotation: Any, argument: str, strict: bool) -> Validator:
    own = annotation if isinstance(annotation, type) else None

    def validate(payload: Any) -> Any:
        # a local caller may hand over the object itself
        if own is not None and type(payload) is own:
            return payload
        try:
            return msgspec.convert(payload, annotation, strict=strict, dec_hook=_convert_nested)
        except msgspec.ValidationError as exc:
            inner = exc.__cause__.path if isinstance(exc.__cause__, _NestedError) else ""
            param = (_field_path(str(exc)) + inner).removeprefix(".") or argument
            text = _AT.sub("", str(exc))
            raise InvalidRequestError(f"{param}: {text}", param=param) from exc

    return validate


def _field_path(problem: str) -> str:
    """The path in msgspec's message: ``messages[0].role``; a missing field's own name belongs to it."""
    at = _AT.search(problem)
    path = at.group(1) if at else ""
    missing = _MISSING.search(problem)
    return ".".join(part for part in (path, missing.group(1) if missing else "") if part)


def give_plain(value: Any, whose: Declared) -> Any:
    """A value that an endpoint yielded or returned, as its callers see it.

    Raises:
        EndpointError: it cannot be made plain; names the endpoint and the type.
    """
    return _made_plain(value, lambda exc: not_plain(str(whose), value, exc, streams=whose.is_stream))


def plain_request(payload: Any, endpoint: str) -> Any:
    """A request as it can be sent.

    Raises:
        InvalidRequestError: it cannot be made plain; names the endpoint and the type.
    """
    return _made_plain(
        payload,
        lambda exc: InvalidRequestError(f"a request of {endpoint} cannot be {_no_json(payload, exc)}"),
    )


def _made_plain(value: Any, refused: Callable[[Exception], DynamoError]) -> Any:
    try:
        return to_plain(value)
    except NOT_PLAIN as exc:
        raise refused(exc) from exc


def not_plain(endpoint: str, value: Any, cause: Exception, *, streams: bool) -> EndpointError:
    """The error over a value that is no JSON."""
    did = "yielded" if streams else "returned"
    return EndpointError(f"{endpoint} {did} {_no_json(value, cause)}")


def _no_json(value: Any, cause: Exception) -> str:
    """``list, which is no JSON value (object is no JSON value)``."""
    kind = type(value).__name__
    own, same, hint = str(cause).partition(f"{kind} is no JSON value")
    return f"{kind}, which is no JSON value" + (hint if same and not own else f" ({cause})")
