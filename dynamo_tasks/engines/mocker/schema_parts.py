"""Parts of JSON schemas: references followed, ``allOf`` merged, kinds found out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from dynamo_tasks.engines.mocker.scalars import UnmadeError

__all__ = ["flattened", "kinds_of", "referred"]

_KINDS = ("null", "boolean", "integer", "number", "string", "array", "object")
_SIGNS = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "string": (),
}
"""Keywords by which a schema without a type shows what it means; a string where nothing shows anything."""
_LARGER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_SMALLER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_NOTES = ("title", "description", "default", "examples", "$comment", "$schema", "$id", "deprecated", "readOnly",
          "writeOnly", "$defs", "definitions", "discriminator")  # fmt: skip
_MOST_STEPS = 64


def flattened(schema: Any, root: Any, at: str) -> dict[str, Any]:
    """A schema without ``$ref`` and ``allOf`` at its top.

    Args:
        schema: A part of ``root``.
        root: The whole, in which references are looked up.
        at: Where the part is, for errors.

    Raises:
        UnmadeError: It is no schema, allows nothing, refers to what is not there, or for ever; or its parts cannot be
            merged.
    """
    out: dict[str, Any] = {}
    todo, steps = [schema], 0
    while todo:
        steps += 1
        if steps > _MOST_STEPS:
            _refuse(at, f"more than {_MOST_STEPS} references and parts")
        part = todo.pop()
        if part is True:
            continue
        if not isinstance(part, Mapping):
            _refuse(at, "allows nothing" if part is False else "is not a schema")
        own = {name: part[name] for name in part if name not in ("$ref", "allOf") and name not in _NOTES}
        if "$ref" in part:
            todo.append(referred(part["$ref"], root, at))
        if "allOf" in part:
            if not isinstance(part["allOf"], list):
                _refuse(at, "allOf must be a list")
            todo += part["allOf"]
        out = _merged(out, own, at) if out else own
    return out


def referred(ref: Any, root: Any, at: str) -> Any:
    """The part of a schema that a ``$ref`` names.

    Raises:
        UnmadeError: It leads out of the schema, or nowhere.
    """
    if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
        _refuse(at, f"$ref {str(ref)[:80]!r} does not stay within the schema (#/…)")
    found = root
    for step in ref.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isascii() and name.isdigit() and int(name[:6]) < len(found):
            found = found[int(name[:6])]
        elif isinstance(found, Mapping) and name in found:
            found = found[name]
        else:
            _refuse(at, f"$ref {ref[:80]!r} leads nowhere")
    return found


def _merged(first: dict[str, Any], second: Mapping[str, Any], at: str) -> dict[str, Any]:
    """A schema that both allow."""
    out = dict(first)
    for name, value in second.items():
        if name not in out or out[name] == value:
            out[name] = value
        elif name == "properties":
            both = out[name].keys() & value.keys()
            out[name] = {
                **out[name],
                **value,
                **{key: {"allOf": [out[name][key], value[key]]} for key in both},
            }
        elif name == "required":
            out[name] = [*out[name], *(key for key in value if key not in out[name])]
        elif name == "type":
            out[name] = _common(out[name], value, at)
        elif name == "enum":
            out[name] = [item for item in out[name] if item in value]
        elif name in _LARGER or name in _SMALLER:
            out[name] = (max if name in _LARGER else min)(out[name], value)
        elif name in ("additionalProperties", "items") and not isinstance(value, list):
            out[name] = False if False in (value, out[name]) else {"allOf": [out[name], value]}
        else:
            _refuse(at, f"two values of the keyword {name!r} meet")
    return out


def _common(first: Any, second: Any, at: str) -> Any:
    ones, others = (kind if isinstance(kind, list) else [kind] for kind in (first, second))
    common = [kind for kind in ones if kind in others]
    if "integer" in (*ones, *others) and "number" in (*ones, *others) and "integer" not in common:
        common.append("integer")
    if not common:
        _refuse(at, f"types {first} and {second} exclude each other")
    return common


def kinds_of(schema: Any, root: Any, at: str) -> list[str]:
    """The types that a schema allows, the plain ones first; guessed from its keywords where it does not say."""
    flat = flattened(schema, root, at)
    given = flat.get("type")
    if given is None:
        signs = (kind for kind, names in _SIGNS.items() if any(name in flat for name in names))
        return [next(signs, "string")]
    kinds = given if isinstance(given, list) else [given]
    if not kinds or any(kind not in _KINDS for kind in kinds):
        _refuse(at, f"type must be one of {', '.join(_KINDS)}, not {str(given)[:80]!r}")
    return sorted(kinds, key=_KINDS.index)


def _refuse(at: str, problem: str) -> NoReturn:
    raise UnmadeError(f"{at}: {problem}")
