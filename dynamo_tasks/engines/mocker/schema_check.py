"""A check whether a JSON value fits a schema, for the parts of JSON Schema that the mocker understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamo_tasks.engines.mocker.scalars import UnmadeError
from dynamo_tasks.engines.mocker.schema_parts import referred

__all__ = ["SchemaCheck"]

_MOST_STEPS, _MOST_DEPTH = 50_000, 128
_TYPES: dict[str, tuple[type, ...]] = {
    "array": (list,),
    "boolean": (bool,),
    "null": (type(None),),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}


class SchemaCheck:
    """Compares values with parts of one schema; gives up after so many steps that a schema must be hostile."""

    def __init__(self, root: Any) -> None:
        """Check against parts of ``root``."""
        self._root = root
        self._steps = _MOST_STEPS

    def matches(self, value: Any, schema: Any, depth: int = 0) -> bool:
        """Return whether a value fits.

        Raises:
            UnmadeError: That takes too long.
        """
        self._steps -= 1
        if self._steps < 0 or depth > _MOST_DEPTH:
            raise UnmadeError("$: the schema is too entangled")
        if not isinstance(schema, Mapping):
            return schema is not False
        if "$ref" in schema and not self.matches(value, referred(schema["$ref"], self._root, "$"), depth + 1):
            return False
        return (
            _has_type(value, schema.get("type"))
            and ("const" not in schema or _same(value, schema["const"]))
            and ("enum" not in schema or any(_same(value, item) for item in schema["enum"]))
            and self._options(value, schema, depth)
            and self._inner(value, schema, depth)
        )

    def _options(self, value: Any, schema: Mapping[str, Any], depth: int) -> bool:
        if not all(self.matches(value, part, depth + 1) for part in schema.get("allOf", ())):
            return False
        if "anyOf" in schema and not any(self.matches(value, part, depth + 1) for part in schema["anyOf"]):
            return False
        return (
            "oneOf" not in schema
            or sum(self.matches(value, part, depth + 1) for part in schema["oneOf"]) == 1
        )

    def _inner(self, value: Any, schema: Mapping[str, Any], depth: int) -> bool:
        if isinstance(value, dict):
            return _in(len(value), schema, "minProperties", "maxProperties") and self._object(
                value, schema, depth
            )
        if isinstance(value, list):
            return _in(len(value), schema, "minItems", "maxItems") and self._array(value, schema, depth)
        if isinstance(value, str):
            return _in(len(value), schema, "minLength", "maxLength")
        return isinstance(value, bool) or value is None or _is_number(value, schema)

    def _object(self, value: dict[str, Any], schema: Mapping[str, Any], depth: int) -> bool:
        declared, more = schema.get("properties") or {}, schema.get("additionalProperties", True)
        if any(name not in value for name in schema.get("required") or ()):
            return False
        return all(self.matches(value[name], declared.get(name, more), depth + 1) for name in value)

    def _array(self, value: list[Any], schema: Mapping[str, Any], depth: int) -> bool:
        items, front = schema.get("items", True), schema.get("prefixItems", [])
        if isinstance(items, list):
            front, items = items, schema.get("additionalItems", True)
        if schema.get("uniqueItems") is True and any(item in value[:at] for at, item in enumerate(value)):
            return False
        parts = [*front, *[items] * max(0, len(value) - len(front))]
        return all(self.matches(item, part, depth + 1) for item, part in zip(value, parts, strict=False))


def _has_type(value: Any, given: Any) -> bool:
    if given is None:
        return True
    return any(_is(value, kind) for kind in (given if isinstance(given, list) else [given]))


def _is(value: Any, kind: Any) -> bool:
    if kind == "integer":
        return _is(value, "number") and value == int(value)
    return isinstance(value, _TYPES.get(kind, ())) and (kind == "boolean" or not isinstance(value, bool))


def _same(first: Any, second: Any) -> bool:
    return isinstance(first, bool) == isinstance(second, bool) and bool(first == second)


def _in(size: int, schema: Mapping[str, Any], least: str, most: str) -> bool:
    return bool(size >= schema.get(least, 0)) and (most not in schema or bool(size <= schema[most]))


def _is_number(value: float, schema: Mapping[str, Any]) -> bool:
    return not (
        value < schema.get("minimum", value)
        or value > schema.get("maximum", value)
        or ("exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"])
        or ("exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"])
        or ("multipleOf" in schema and value % schema["multipleOf"] != 0)
    )
