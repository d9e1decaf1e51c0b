"""JSON values that a JSON schema allows, made without a model.

The parts of JSON Schema that tools and structured answers use are understood, see :data:`_REFUSED` for the rest:
what cannot be made is refused, with its name and its place. Whatever the schema says, a value stays small.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from dynamo_tasks.engines.mocker.dice import Dice
from dynamo_tasks.engines.mocker.scalars import UnmadeError, bound, make_number, make_string
from dynamo_tasks.engines.mocker.schema_check import SchemaCheck
from dynamo_tasks.engines.mocker.schema_parts import flattened, kinds_of
from dynamo_tasks.errors import InvalidRequestError

__all__ = ["make_value"]

_REFUSED = (
    "$dynamicRef", "contains", "dependencies", "dependentRequired", "dependentSchemas", "if", "not", "pattern",
    "patternProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_MOST_VALUES, _MOST_CHARACTERS = 2000, 1 << 16
_FULL_DEPTH = 4
"""Levels down to which optional properties are filled and lists have items."""
_MOST_DEPTH = 32
_TRIES = 8
_MALFORMED = (
    AttributeError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    ZeroDivisionError,
)
"""The errors of keywords whose values are of another kind than they must be, where nothing else has noticed it."""


def make_value(schema: Any, dice: Dice, param: str) -> Any:
    """Make a value.

    Args:
        schema: A JSON schema; its ``$ref`` stay within it.
        dice: Decides what the schema leaves open.
        param: The field in which the schema came.

    Raises:
        InvalidRequestError: The schema is not valid, allows nothing, needs too much, or has a keyword that is not
            understood; says where.
    """
    try:
        maker = _Maker(schema, dice)
        value = maker.value(schema, "$", 0)
        if not maker.check.matches(value, schema):
            raise UnmadeError("$: no value was found that fits all of it")
    except UnmadeError as error:
        raise _unmade(param, str(error)) from error
    except _MALFORMED as error:
        raise _unmade(param, f"it is not a valid JSON schema ({error})") from error
    return value


def _unmade(param: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: {problem}; the mocker cannot make such JSON", param=param)


class _Maker:
    """One value; counts what it makes, so that it ends.

    Attributes:
        check: Compares values with parts of the schema.
    """

    def __init__(self, root: Any, dice: Dice) -> None:
        self.check = SchemaCheck(root)
        self._root = root
        self._dice = dice
        self._values = _MOST_VALUES
        self._characters = _MOST_CHARACTERS

    def value(self, schema: Any, at: str, depth: int) -> Any:
        """One value of a part of the schema."""
        self._values -= 1
        if self._values < 0:
            _refuse(at, f"needs more than {_MOST_VALUES} values")
        if depth > _MOST_DEPTH:
            _refuse(at, f"goes deeper than {_MOST_DEPTH} levels")
        flat = flattened(schema, self._root, at)
        if refused := next((name for name in _REFUSED if name in flat), None):
            _refuse(at, f"the keyword {refused!r} is not understood")
        if "const" in flat:
            return self._given(flat["const"], at)
        if "enum" in flat:
            return self._enum(flat, at)
        for name in ("anyOf", "oneOf"):
            if name in flat:
                return self._option(flat, name, at, depth)
        return self._of_kind(flat, at, depth)

    def _given(self, value: Any, at: str) -> Any:
        return self._counted(value, len(json.dumps(value)), at)

    def _counted(self, value: Any, characters: int, at: str) -> Any:
        self._characters -= characters
        if self._characters < 0:
            _refuse(at, f"needs more than {_MOST_CHARACTERS} characters")
        return value

    def _enum(self, schema: Mapping[str, Any], at: str) -> Any:
        choices = schema["enum"]
        if not isinstance(choices, list):
            _refuse(at, "enum must be a list")
        rest = {name: schema[name] for name in schema if name != "enum"}
        fitting = [value for value in choices[:_MOST_VALUES] if self.check.matches(value, rest)]
        if not fitting:
            _refuse(at, "enum has no value that fits")
        return self._given(self._dice.choose(fitting), at)

    def _option(self, schema: Mapping[str, Any], name: str, at: str, depth: int) -> Any:
        """The first option that can be made and that the whole takes; deep down the plain ones come first."""
        options = schema[name]
        if not isinstance(options, list) or not options:
            _refuse(at, f"{name} must be a list that is not empty")
        rest = {key: schema[key] for key in schema if key != name}
        first = self._dice.below(len(options))
        order = [*options[first:], *options[:first]]
        if depth >= _FULL_DEPTH:
            order.sort(key=lambda option: kinds_of(option, self._root, at)[0] in ("array", "object"))
        problem = UnmadeError(f"{at}: {name} has no option that can be made and that excludes the others")
        for option in [option for option in order for _ in range(_TRIES if name == "oneOf" else 1)]:
            try:
                value = self.value({"allOf": [rest, option]}, f"{at}.{name}", depth + 1)
            except UnmadeError as error:
                problem = error
                continue
            if name == "anyOf" or self.check.matches(value, schema):
                return value
        raise problem

    def _of_kind(self, schema: Mapping[str, Any], at: str, depth: int) -> Any:
        kinds = kinds_of(schema, self._root, at)
        kind = self._dice.choose(kinds) if depth < _FULL_DEPTH else kinds[0]
        if kind == "object":
            return self._object(schema, at, depth)
        if kind == "array":
            return self._array(schema, at, depth)
        if kind == "string":
            text = make_string(schema, self._dice, at)
            return self._counted(text, len(text), at)
        if kind in ("integer", "number"):
            return make_number(schema, self._dice, at, whole=kind == "integer")
        return None if kind == "null" else bool(self._dice.below(2))

    # -- objects -------------------------------------------------------------------------------

    def _object(self, schema: Mapping[str, Any], at: str, depth: int) -> dict[str, Any]:
        declared = schema.get("properties") or {}
        required = schema.get("required") or []
        if not isinstance(declared, Mapping) or not isinstance(required, list):
            _refuse(at, "properties must be an object, required a list")
        out: dict[str, Any] = {}
        for name in self._names(schema, declared, required, at, depth):
            inner = declared.get(name, schema.get("additionalProperties", True))
            try:
                out[name] = self.value(inner, f"{at}.{name}"[:200], depth + 1)
            except UnmadeError:
                if name in required or self._values < 0 or self._characters < 0:
                    raise
        return out

    def _names(
        self, schema: Mapping[str, Any], declared: Mapping[str, Any], required: list[Any], at: str, depth: int
    ) -> list[str]:
        """The properties to make, in the order of the schema."""
        names = [name for name in declared if depth < _FULL_DEPTH or name in required]
        names += [name for name in required if isinstance(name, str) and name not in declared]
        least, most = bound(schema, "minProperties", at) or 0, bound(schema, "maxProperties", at)
        more = schema.get("additionalProperties", True)
        if not names and isinstance(more, Mapping) and more and depth < _FULL_DEPTH:
            least = max(least, 1)
        for name in [name for name in reversed(names) if name not in required]:
            if most is not None and len(names) > most:
                names.remove(name)
        for name in declared:
            if len(names) < least and name not in names:
                names.append(name)
        while len(names) < min(least, _MOST_VALUES) and more is not False:
            names.append(f"{self._dice.words(1)}_{len(names)}")
        return names

    # -- arrays --------------------------------------------------------------------------------

    def _array(self, schema: Mapping[str, Any], at: str, depth: int) -> list[Any]:
        items, front = schema.get("items", True), schema.get("prefixItems", [])
        if isinstance(items, list):  # as older drafts have it
            front, items = items, schema.get("additionalItems", True)
        if not isinstance(front, list):
            _refuse(at, "prefixItems must be a list")
        least, most = bound(schema, "minItems", at) or 0, bound(schema, "maxItems", at)
        wanted = max(least, len(front))
        if items is not False and depth < _FULL_DEPTH:
            wanted = max(least, len(front), 1) + self._dice.below(2)
        wanted = max(least, wanted if most is None else min(wanted, most))
        out: list[Any] = []
        while len(out) < wanted:
            inner = front[len(out)] if len(out) < len(front) else items
            found = self._item(inner, schema.get("uniqueItems") is True, out, f"{at}[{len(out)}]", depth)
            if found is None:
                if len(out) < least:
                    _refuse(at, "has not enough different items")
                break
            out.append(found[0])
        return out

    def _item(self, schema: Any, unique: bool, others: list[Any], at: str, depth: int) -> tuple[Any] | None:
        for _ in range(_TRIES if unique else 1):
            value = self.value(schema, at, depth + 1)
            if not unique or value not in others:
                return (value,)
        return None


def _refuse(at: str, problem: str) -> NoReturn:
    raise UnmadeError(f"{at}: {problem}")
