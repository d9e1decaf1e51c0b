"""The arguments of an ``@api`` method, from a JSON body."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.sdk.endpoints.payloads import make_validator

__all__ = ["Arguments"]

_PLAIN = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Arguments:
    """Binds bodies to one handler's parameters, and checks them against its annotations."""

    def __init__(self, handler: Callable[..., Any]):
        """Look at the handler.

        Args:
            handler: A function or bound method.
        """
        parameters = inspect.signature(handler).parameters.values()
        self._parameters = {p.name: p for p in parameters if p.kind in _PLAIN}
        self._open = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        self._types = _type_hints(handler)

    def bind(self, body: Any, *, text: bool = False) -> dict[str, Any]:
        """The keyword arguments.

        A method with one parameter takes the whole body, unless the body is an object with just that name;
        otherwise the body is an object of arguments.

        Args:
            body: Decoded JSON; ``None`` = no body.
            text: Whether values are text of a query string: ``"3"`` is a number then.

        Raises:
            InvalidRequestError: names the argument.
        """
        names = list(self._parameters)
        whole = (
            len(names) == 1
            and not self._open
            and not text
            and not _is_call(body, names[0])
            and body is not None
        )
        if whole:
            values = {names[0]: body}
        elif body is None or isinstance(body, dict):
            values = dict(body or {})
        else:
            raise InvalidRequestError(f"the body must be a JSON object with the arguments {self._listed()}")
        self._check_names(values)
        return {name: self._converted(name, value, text=text, whole=whole) for name, value in values.items()}

    def _check_names(self, values: dict[str, Any]) -> None:
        for name, parameter in self._parameters.items():
            if parameter.default is inspect.Parameter.empty and name not in values:
                raise InvalidRequestError(f"{name}: this argument is required", param=name)
        for name in () if self._open else values:
            if name not in self._parameters:
                near = difflib.get_close_matches(name[:100], self._parameters, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                text = f"unknown argument {name!r}; allowed: {self._listed()}{hint}"
                raise InvalidRequestError(text, param=name)

    def _listed(self) -> str:
        return ", ".join(self._parameters) or "none"

    def _converted(self, name: str, value: Any, *, text: bool, whole: bool) -> Any:
        wanted = self._types.get(name)
        if wanted is None:
            return value
        try:
            return make_validator(wanted, name, strict=not text)(value)
        except InvalidRequestError as exc:
            if whole or exc.param in (None, name):
                raise
            # The path inside of the argument belongs behind its name.
            path = exc.param if exc.param.startswith("[") else f".{exc.param}"
            problem = exc.message.removeprefix(exc.param)
            raise InvalidRequestError(f"{name}{path}{problem}", param=f"{name}{path}") from exc


def _is_call(body: Any, name: str) -> bool:
    return isinstance(body, dict) and list(body) == [name]


def _type_hints(handler: Callable[..., Any]) -> dict[str, Any]:
    """The annotations that values can be converted to; others are left alone."""
    try:
        hints = typing.get_type_hints(handler)
    except (NameError, TypeError):
        return {}
    return {name: hint for name, hint in hints.items() if hint is not Any and _convertible(hint)}


def _schema_of(kind: type) -> dict[str, Any]:
    """A pydantic model, also inside of another type, can be converted to."""
    if hasattr(kind, "model_validate"):
        return {"type": "object"}
    raise NotImplementedError


def _convertible(hint: Any) -> bool:
    if hasattr(hint, "model_validate"):
        return True
    try:
        msgspec.json.schema(hint, schema_hook=_schema_of)
    except TypeError:
        return False
    return True
