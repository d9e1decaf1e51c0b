"""Words of the OpenAPI document: schemas, parameters, operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "ALWAYS",
    "COUNT",
    "EVENTS",
    "ID",
    "IDEMPOTENCY",
    "NUMBER",
    "POSTED",
    "REFS",
    "TEXT",
    "get",
    "json_of",
    "list_of",
    "object_of",
    "operation",
    "or_null",
    "page_of",
    "page_parameters",
    "ref",
]

REFS = "#/components/schemas/{name}"
_MEANINGS = {
    400: "The request is not valid; `param` names the field.",
    401: "No API key, or a wrong one.",
    403: "Asked by a web page, or under a name, that is not allowed.",
    404: "Unknown, or of another API key.",
    408: "Head or body did not come in time.",
    409: "The idempotency key was used with another body, or the object has changed meanwhile.",
    410: "The stream is past its retention.",
    413: "The body is too large.",
    414: "The URL is too long.",
    415: "The body is compressed in another way than gzip.",
    429: "The queue is full, or the API key at its limit; see Retry-After.",
    431: "Too many headers, or too large ones.",
    499: "The request was cancelled.",
    500: "The endpoint or the engine failed.",
    503: "Nobody serves this now, or Redis cannot be reached; see Retry-After.",
    504: "The request's deadline has passed.",
}
ALWAYS = (400, 401, 403, 408, 414, 431, 503)
POSTED = (404, 409, 410, 413, 415, 429, 499, 500, 504)


ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


IDEMPOTENCY = {
    "name": "Idempotency-Key", "in": "header", "required": False,
    "description": "The same key with the same body gives the same request, once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}  # fmt: skip


def object_of(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """An object with fields that it has, and such that it may have."""
    return {"type": "object", "properties": {**required, **optional}, "required": list(required)}


def ref(name: str) -> dict[str, str]:
    """A schema of the document, by its name."""
    return {"$ref": REFS.format(name=name)}


def or_null(kind: str) -> dict[str, Any]:
    """A value of a type, or null."""
    return {"type": [kind, "null"]}


def list_of(item: dict[str, Any]) -> dict[str, Any]:
    """An array of equal items."""
    return {"type": "array", "items": item}


TEXT, NUMBER, COUNT = {"type": "string"}, {"type": "number"}, {"type": "integer", "minimum": 0}


EVENTS = {"text/event-stream": {"schema": TEXT}}


def json_of(schema: dict[str, Any]) -> dict[str, Any]:
    """A body of JSON."""
    return {"application/json": {"schema": schema}}


def operation(
    name: str,
    summary: str,
    answers: dict[int, Any],
    failures: Sequence[int],
    error: str = "Error",
    **more: Any,
) -> dict[str, Any]:
    """An operation; ``answers`` has the content of each status, ``failures`` are errors of the schema ``error``."""
    responses: dict[str, Any] = {
        str(status): {"description": "The answer.", **({"content": content} if content else {})}
        for status, content in answers.items()
    }
    for status in sorted(set(failures) - answers.keys()):
        responses[str(status)] = {"description": _MEANINGS[status], "content": json_of(ref(error))}
    return {"operationId": name, "summary": summary, "responses": responses, **more}


def get(name: str, summary: str, answers: dict[int, Any], *failures: int, **more: Any) -> dict[str, Any]:
    """An operation without a body."""
    return operation(name, summary, answers, (*ALWAYS, *failures), **more)


def page_parameters(most: int, *more: dict[str, Any]) -> list[dict[str, Any]]:
    """Parameters of a list, with ``most`` rows on a page."""
    return [
        {
            "name": "limit",
            "in": "query",
            "required": False,
            "schema": {"type": "integer", "minimum": 1, "maximum": most},
        },
        {"name": "order", "in": "query", "required": False, "schema": {"enum": ["asc", "desc"]}},
        {"name": "after", "in": "query", "required": False, "schema": {"type": "string", "maxLength": 150}},
        *more,
    ]


def page_of(name: str) -> dict[str, Any]:
    """A page of a list of objects."""
    return object_of(
        {
            "object": {"const": "list"},
            "data": list_of(ref(name)),
            "first_id": or_null("string"),
            "last_id": or_null("string"),
            "has_more": {"type": "boolean"},
        }
    )
