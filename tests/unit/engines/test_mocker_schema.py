"""JSON that the mocker makes for schemas: valid by a validator of others, small, and the same each time."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_tasks.engines.mocker.dice import Dice
from dynamo_tasks.engines.mocker.schema_values import make_value
from dynamo_tasks.errors import InvalidRequestError

TREE = {
    "$ref": "#/$defs/Tree",
    "$defs": {
        "Tree": {
            "type": "object",
            "properties": {
                "v": {"type": "integer"},
                "kids": {"type": "array", "items": {"$ref": "#/$defs/Tree"}},
            },
            "required": ["v", "kids"],
            "additionalProperties": False,
        }
    },
}
CHAIN = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["next"],
}
PARTS = {
    "allOf": [
        {"type": "object", "properties": {"a": {"type": "integer", "minimum": 2}}, "required": ["a"]},
        {"properties": {"a": {"maximum": 2}, "b": {"const": 7}}, "required": ["b"]},
    ]
}
SHAPES = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": "circle"}, "r": {"type": "number"}},
            "required": ["kind"],
        },
        {"type": "object", "properties": {"kind": {"const": "dot"}}, "required": ["kind"]},
    ]
}

FORMATS = ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid")


def make(schema: Any, turn: int = 0) -> Any:
    return make_value(schema, Dice(bytes([turn])), "response_format")


@pytest.mark.parametrize(
    "schema",
    [
        True, {}, TREE, CHAIN, PARTS, SHAPES,
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 3},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
        {"type": "array", "items": {"type": "boolean"}, "maxItems": 0},
        {"type": "string", "minLength": 20, "maxLength": 25}, {"type": "string", "maxLength": 0},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "number", "multipleOf": 0.25, "minimum": 3}, {"type": "integer", "multipleOf": 7, "minimum": 50},
        {"type": "integer", "exclusiveMaximum": -5}, {"type": "integer", "minimum": 3, "maximum": 3},
        {"type": ["string", "null"]}, {"enum": [None, 1, "x", {"y": []}]}, {"type": "integer", "enum": ["a", 4]},
        {"type": "object", "additionalProperties": {"type": "integer"}}, {"type": "object", "minProperties": 3},
        {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "required": ["c"], "maxProperties": 1},
        {"type": "object", "properties": {"a": False, "b": True}},
        *({"type": "string", "format": name} for name in FORMATS),
    ],
    ids=lambda schema: json.dumps(schema)[:60],
)  # fmt: skip
def test_it_is_valid_and_the_same_each_time(schema: Any) -> None:
    for turn in range(20):
        value = make(schema, turn)
        jsonschema.validate(value, schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
        assert value == make(schema, turn)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "string", "pattern": "^a+$"}, r"\$: the keyword 'pattern' is not understood"),
        ({"properties": {"a": {"not": {}}}, "required": ["a"]}, r"\$\.a: the keyword 'not'"),
        ({"$ref": "#"}, "more than 64 references"),
        ({"$ref": "https://example.org/s"}, "does not stay within"),
        ({"$ref": "#/$defs/no"}, "leads nowhere"),
        (False, "allows nothing"),
        ({"type": "array", "items": {"const": 1}, "uniqueItems": True, "minItems": 2}, "not enough different"),
        ({"type": "string", "minLength": 10**9}, "at most 4096"),
        ({"type": "array", "minItems": 10**9}, "more than 2000 values"),
        ({"type": "object", "minProperties": 10**9}, "more than 2000 values"),
        ({"type": "array", "minItems": 99, "items": {"const": "x" * 9999}}, "more than 65536 characters"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "goes deeper"),
        ({"anyOf": [{"type": "array", "minItems": 2, "items": {"$ref": "#"}}] * 9}, "more than 2000 values"),
        ({"type": "integer", "minimum": 1, "maximum": 0}, "leave no number"),
        ({"type": "integer", "multipleOf": 10, "minimum": 1, "maximum": 9}, "no number fits"),
        ({"type": "number", "minimum": "x"}, "minimum must be a number"),
        ({"type": "integer", "minimum": 10**400}, "minimum must be a number"),
        ({"type": "text"}, "type must be one of"),
        ({"enum": []}, "no value that fits"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "exclude each other"),
        ({"required": ["a"], "additionalProperties": False}, "allows nothing"),
        ({"anyOf": [{"type": "string"}, {"minimum": "x"}], "enum": [3]}, "no value that fits|not a valid JSON schema"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_refused_by_name(schema: Any, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says) as caught:
        make(schema)
    assert caught.value.param == "response_format"


def _schemas() -> st.SearchStrategy[Any]:
    words = st.sampled_from(
        ["type", "properties", "items", "anyOf", "oneOf", "allOf", "$ref", "enum", "const", "required", "minItems",
         "maxItems", "minimum", "maximum", "minLength", "maxLength", "multipleOf", "additionalProperties", "format",
         "uniqueItems", "prefixItems", "a", "b"]
    )  # fmt: skip
    scalars = st.sampled_from(
        [
            None,
            True,
            False,
            0,
            1,
            3,
            -2,
            0.5,
            "a",
            "#",
            "#/a",
            "object",
            "array",
            "string",
            "integer",
            "number",
            "uuid",
        ]
    )
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5),
        max_leaves=25,
    )


@settings(max_examples=300, deadline=None)
@given(_schemas())
def test_whatever_comes_it_is_valid_or_refused_and_soon(schema: Any) -> None:
    began = time.process_time()
    try:
        value = make(schema)
    except InvalidRequestError:
        return
    finally:
        assert time.process_time() - began < 2
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError:
        return  # what is no schema may be read in any way
    jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)
