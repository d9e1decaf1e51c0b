"""The OpenAPI document of the HTTP API, at ``/openapi.json`` and in ``docs/openapi.json``.

Bodies of requests come from the types that check them (:mod:`dynamo_tasks.protocol.http.openai`), the rest is said
here; a test asks a live server whether it keeps to it. Written by ``python -m dynamo_tasks.frontend.openapi``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dynamo_tasks.frontend.access.stream_tokens import LONGEST, USUAL
from dynamo_tasks.frontend.api_routes import ApiRoute
from dynamo_tasks.frontend.http.errors import json_response
from dynamo_tasks.protocol.http.openai import ChatRequest, CompletionRequest, EmbeddingRequest
from dynamo_tasks.protocol.states import State

__all__ = ["PATH", "OpenApi", "document"]

PATH = "/openapi.json"
_VERSION = "1"
_REFS = "#/components/schemas/{name}"
_MEANINGS = {
    400: "The request is not valid; `param` names the field.",
    401: "No API key, or a wrong one.",
    403: "Asked by a web page, or under a name, that is not allowed.",
    404: "Unknown, or of another API key.",
    408: "Head or body did not come in time.",
    409: "The idempotency key was used with another body.",
    410: "The stream is past its retention.",
    413: "The body is too large.",
    414: "The URL is too long.",
    415: "The body is compressed in another way than gzip.",
    429: "The queue is full; see Retry-After.",
    431: "Too many headers, or too large ones.",
    499: "The request was cancelled.",
    500: "The endpoint or the engine failed.",
    503: "Nobody serves this now, or Redis cannot be reached; see Retry-After.",
    504: "The request's deadline has passed.",
}
_ALWAYS = (400, 401, 403, 408, 414, 431, 503)
_POSTED = (404, 409, 413, 415, 429, 499, 500, 504)


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {**required, **optional}, "required": list(required)}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REFS.format(name=name)}


def _or_null(kind: str) -> dict[str, Any]:
    return {"type": [kind, "null"]}


def _list_of(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


_TEXT, _NUMBER, _COUNT = {"type": "string"}, {"type": "number"}, {"type": "integer", "minimum": 0}
_CREATED = {"id": _TEXT, "object": _TEXT, "created": {"type": "integer"}, "model": _TEXT}
_SCHEMAS: dict[str, Any] = {
    "Error": _object(
        {"error": _object({"message": _TEXT, "type": _TEXT, "param": _or_null("string"), "code": _TEXT})}
    ),
    "Usage": _object(
        {"prompt_tokens": _COUNT, "total_tokens": _COUNT},
        completion_tokens=_COUNT,
        prompt_tokens_details=_object({"cached_tokens": _COUNT}),
    ),
    "ChatCompletion": _object(
        {
            **_CREATED,
            "choices": _list_of(
                _object(
                    {
                        "index": _COUNT,
                        "message": _object({"role": _TEXT, "content": _or_null("string")}),
                        "finish_reason": _or_null("string"),
                    }
                )
            ),
            "usage": _ref("Usage"),
        },
        service_tier=_TEXT,
    ),
    "Completion": _object(
        {
            **_CREATED,
            "choices": _list_of(
                _object({"index": _COUNT, "text": _TEXT, "finish_reason": _or_null("string")})
            ),
            "usage": _ref("Usage"),
        },
        service_tier=_TEXT,
    ),
    "Embeddings": _object(
        {
            "object": _TEXT,
            "model": _TEXT,
            "data": _list_of(
                _object(
                    {"object": _TEXT, "index": _COUNT, "embedding": {"anyOf": [_list_of(_NUMBER), _TEXT]}}
                )
            ),
            "usage": _ref("Usage"),
        }
    ),
    "Accepted": _object({"id": _TEXT, "status": {"const": "queued"}}),
    "Model": _object(
        {"id": _TEXT, "object": _TEXT, "created": {"type": "integer"}, "owned_by": _TEXT},
        max_model_len=_COUNT,
    ),
    "Models": _object({"object": _TEXT, "data": _list_of(_ref("Model"))}),
    "Request": _object(
        {
            "id": _TEXT,
            "object": {"const": "request"},
            "status": {"enum": [state.lower() for state in State]},
            "endpoint": _TEXT,
            "model": _or_null("string"),
            "created": {"type": "integer"},
            "attempts": _COUNT,
            "last_event": _TEXT,
            "finish_reason": _or_null("string"),
            "usage": {"anyOf": [_ref("Usage"), {"type": "null"}]},
            "error": _or_null("object"),
            "stream": _TEXT,
        }
    ),
    "StreamToken": _object(
        {
            "id": _TEXT,
            "object": {"const": "stream_token"},
            "token": _or_null("string"),
            "expires_at": _or_null("integer"),
            "stream": _TEXT,
        }
    ),
    "Status": _object({"status": {"enum": ["healthy", "unhealthy", "alive"]}}, reason=_TEXT),
    "Ready": _object(
        {"ready": {"type": "boolean"}}, components={"type": "object"}, models=_list_of(_TEXT), reason=_TEXT
    ),
}
_ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
_IDEMPOTENCY = {
    "name": "Idempotency-Key", "in": "header", "required": False,
    "description": "The same key with the same body gives the same request, once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}  # fmt: skip
_EVENT_ID = {"type": "string", "pattern": r"^[0-9]{1,19}-[0-9]{1,19}(\.[0-9]{1,10})?$"}
_AFTER = [
    {"name": "Last-Event-ID", "in": "header", "required": False, "schema": _EVENT_ID},
    {"name": "after", "in": "query", "required": False, "schema": _EVENT_ID},
]
_PURGE = {
    "name": "purge", "in": "query", "required": False, "description": "Erase payload and stream as well.",
    "schema": {"enum": ["true", "false", "1", "0", ""]},
}  # fmt: skip


_TOKEN = {
    "name": "token", "in": "query", "required": False, "description": "Instead of an API key, for this stream only.",
    "schema": _TEXT,
}  # fmt: skip
_SECONDS = {"type": "integer", "minimum": 1, "maximum": LONGEST, "default": USUAL}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


_EVENTS = {"text/event-stream": {"schema": _TEXT}}


def _operation(
    name: str, summary: str, answers: dict[int, Any], failures: Sequence[int], **more: Any
) -> dict[str, Any]:
    """An operation; ``answers`` has the content of each status, ``failures`` are errors in OpenAI's shape."""
    responses: dict[str, Any] = {
        str(status): {"description": "The answer.", **({"content": content} if content else {})}
        for status, content in answers.items()
    }
    for status in sorted(set(failures) - answers.keys()):
        responses[str(status)] = {"description": _MEANINGS[status], "content": _json(_ref("Error"))}
    return {"operationId": name, "summary": summary, "responses": responses, **more}


def _post(name: str, summary: str, body: str, answers: dict[int, Any]) -> dict[str, Any]:
    return _operation(
        name, summary, answers, (*_ALWAYS, *_POSTED), parameters=[_IDEMPOTENCY],
        requestBody={"required": True, "content": _json(_ref(body))},
    )  # fmt: skip


def _get(name: str, summary: str, answers: dict[int, Any], *failures: int, **more: Any) -> dict[str, Any]:
    return _operation(name, summary, answers, (*_ALWAYS, *failures), **more)


def _open(name: str, summary: str, answers: dict[int, Any]) -> dict[str, Any]:
    """An operation that needs no key."""
    return _operation(name, summary, answers, (400, 403, 408, 414, 431, 503), security=[])


def _paths() -> dict[str, Any]:
    accepted, request = {202: _json(_ref("Accepted"))}, {200: _json(_ref("Request"))}
    chat = {200: {**_json(_ref("ChatCompletion")), **_EVENTS}} | accepted
    texts = {200: {**_json(_ref("Completion")), **_EVENTS}} | accepted
    status, ready = _json(_ref("Status")), _json(_ref("Ready"))
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return {
        "/v1/chat/completions": {"post": _post("chat", "A chat completion.", "ChatRequest", chat)},
        "/v1/completions": {"post": _post("completions", "A completion.", "CompletionRequest", texts)},
        "/v1/embeddings": {
            "post": _post("embeddings", "Embeddings.", "EmbeddingRequest", {200: _json(_ref("Embeddings"))})
        },
        "/v1/models": {"get": _get("models", "What is served.", {200: _json(_ref("Models"))})},
        "/v1/models/{name}": {
            "get": _get("model", "One model.", {200: _json(_ref("Model"))}, 404, parameters=[name])
        },
        "/v1/requests/{id}": {
            "get": _get("request", "Where a request stands.", request, 404, 410, parameters=[_ID]),
            "delete": _get("cancel", "Cancel a request.", request, 404, 410, parameters=[_ID, _PURGE]),
        },
        "/v1/requests/{id}/stream": {
            "get": _get(
                "stream",
                "The rest of a stream.",
                {200: _EVENTS, 204: None},
                404,
                410,
                500,
                parameters=[_ID, *_AFTER, _TOKEN],
            )
        },
        "/v1/requests/{id}/stream-token": {
            "post": _operation(
                "stream_token",
                "A URL of the stream for readers that can send no key.",
                {200: _json(_ref("StreamToken"))},
                (*_ALWAYS, 404, 410, 413, 415),
                parameters=[_ID],
                requestBody={"required": False, "content": _json(_object({}, expires_in=_SECONDS))},
            )
        },
        "/live": {"get": _open("live", "Whether the process answers.", {200: status})},
        "/health": {"get": _open("health", "Whether an instance serves.", {200: status, 503: status})},
        "/ready": {"get": _open("ready", "Whether all instances are there.", {200: ready, 503: ready})},
        "/metrics": {"get": _open("metrics", "For Prometheus.", {200: {"text/plain": {"schema": _TEXT}}})},
        PATH: {"get": _get("openapi", "This document.", {200: _json({"type": "object"})})},
    }


def document(routes: Sequence[ApiRoute] = ()) -> dict[str, Any]:
    """The document, as JSON.

    Args:
        routes: ``@api`` methods that are served, too; their bodies are said to be any JSON.
    """
    _, bodies = msgspec.json.schema_components(
        [ChatRequest, CompletionRequest, EmbeddingRequest], ref_template=_REFS
    )
    paths = _paths()
    for route in routes:
        answers = {200: {**_json({}), **_EVENTS}}
        method = _operation(route.name, f"The method {route.name}.", answers, (*_ALWAYS, *_POSTED))
        if route.method not in ("GET", "DELETE"):
            method["requestBody"] = {"content": _json({})}
        paths.setdefault(route.path, {})[route.method.lower()] = method
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dynamo-tasks",
            "version": _VERSION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"key": []}, {}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {**bodies, **_SCHEMAS},
        },
    }


class OpenApi:
    """``/openapi.json``."""

    def __init__(self, routes: Sequence[ApiRoute]):
        self._document = document(routes)

    async def show(self, request: Request) -> Response:
        """The document."""
        return json_response(self._document)


if __name__ == "__main__":
    print(json.dumps(document(), indent=1))
