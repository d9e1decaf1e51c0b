"""The one constraint of an answer's form, from whichever field of a payload names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamo_tasks.errors import InvalidRequestError

__all__ = ["CONSTRAINTS", "structured_outputs"]

_STRUCTURED = {
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_json": "json",
    "guided_regex": "regex",
}
CONSTRAINTS = ("response_format", "structured_outputs", *_STRUCTURED)
"""Fields that constrain the form of an answer."""
_KINDS = ("choice", "grammar", "json", "json_object", "regex", "structural_tag")
_OPTIONS = ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern")


def structured_outputs(extra: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read the constraint: ``{"json": schema}``, ``{"json_object": True}``, ``{"choice": […]}``, ``{"regex": …}``, …

    Those are the arguments of vLLM's ``StructuredOutputsParams``; ``None`` where nothing is constrained.

    Raises:
        InvalidRequestError: several of them, or one that is not valid.
    """
    given = [name for name in CONSTRAINTS if name in extra]
    if not given:
        return None
    if len(given) > 1:
        raise _refuse(given[1], f"not allowed together with {given[0]}")
    name = given[0]
    if name == "response_format":
        return _response_format(extra[name])
    if name == "structured_outputs":
        return _own(extra[name])
    return {_STRUCTURED[name]: extra[name]}


def _response_format(value: object) -> dict[str, Any] | None:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"json_object": True}
    if kind != "json_schema" or not isinstance(value, Mapping):
        raise _refuse("response_format.type", "must be one of text, json_object, json_schema")
    declared = value.get("json_schema")
    schema = declared.get("schema") if isinstance(declared, Mapping) else None
    if not isinstance(schema, Mapping):
        raise _refuse("response_format.json_schema.schema", "must be a JSON schema")
    return {"json": dict(schema)}


def _own(value: object) -> dict[str, Any]:
    """vLLM's ``structured_outputs`` object."""
    if not isinstance(value, Mapping):
        raise _refuse("structured_outputs", f"must be an object with one of {', '.join(_KINDS)}")
    given = {name: item for name, item in value.items() if item is not None}
    for name in given:
        if name not in (*_KINDS, *_OPTIONS):
            raise _refuse(f"structured_outputs.{name}", f"unknown; known: {', '.join((*_KINDS, *_OPTIONS))}")
    if sum(name in given for name in _KINDS) != 1:
        raise _refuse("structured_outputs", f"exactly one of {', '.join(_KINDS)} is needed")
    return given


def _refuse(param: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: {problem}", param=param)
