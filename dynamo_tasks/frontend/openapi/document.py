"""The OpenAPI document of the HTTP API, at ``/openapi.json`` and in ``docs/openapi.json``.

Bodies of requests come from the types that check them (:mod:`dynamo_tasks.protocol.http.openai`), the rest is said
here; a test asks a live server whether it keeps to it. Written by ``python -m dynamo_tasks.frontend.openapi``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dynamo_tasks.frontend.access.stream_tokens import LONGEST, USUAL
from dynamo_tasks.frontend.api_routes import ApiRoute
from dynamo_tasks.frontend.http.errors import json_response
from dynamo_tasks.frontend.openapi.batches import BATCHES, BATCHES_SCHEMAS
from dynamo_tasks.frontend.openapi.files import FILES, FILES_SCHEMAS
from dynamo_tasks.frontend.openapi.messages import MESSAGES, MESSAGES_SCHEMAS
from dynamo_tasks.frontend.openapi.responses import RESPONSES, RESPONSES_BODIES, RESPONSES_SCHEMAS
from dynamo_tasks.frontend.openapi.schemas import SCHEMAS
from dynamo_tasks.frontend.openapi.tokenize import TOKENS, TOKENS_SCHEMAS
from dynamo_tasks.frontend.openapi.usage import USAGE, USAGE_SCHEMAS
from dynamo_tasks.frontend.openapi.words import (
    ALWAYS,
    EVENTS,
    ID,
    IDEMPOTENCY,
    POSTED,
    REFS,
    TEXT,
    get,
    json_of,
    object_of,
    operation,
    ref,
)
from dynamo_tasks.protocol.http.batches import BatchRequest
from dynamo_tasks.protocol.http.messages import MessagesRequest
from dynamo_tasks.protocol.http.openai import OPTIONS, ChatRequest, CompletionRequest, EmbeddingRequest

__all__ = ["PATH", "OpenApi", "document"]

PATH = "/openapi.json"
_VERSION = "1"
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
    "schema": TEXT,
}  # fmt: skip
_SECONDS = {"type": "integer", "minimum": 1, "maximum": LONGEST, "default": USUAL}


def _post(name: str, summary: str, body: str, answers: dict[int, Any]) -> dict[str, Any]:
    return operation(
        name, summary, answers, (*ALWAYS, *POSTED), parameters=[IDEMPOTENCY],
        requestBody={"required": True, "content": json_of(ref(body))},
    )  # fmt: skip


def _open(name: str, summary: str, answers: dict[int, Any]) -> dict[str, Any]:
    """An operation that needs no key."""
    return operation(name, summary, answers, (400, 403, 408, 414, 431, 503), security=[])


def _paths() -> dict[str, Any]:
    accepted, request = {202: json_of(ref("Accepted"))}, {200: json_of(ref("Request"))}
    chat = {200: {**json_of(ref("ChatCompletion")), **EVENTS}} | accepted
    texts = {200: {**json_of(ref("Completion")), **EVENTS}} | accepted
    status, ready = json_of(ref("Status")), json_of(ref("Ready"))
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return {
        "/v1/chat/completions": {"post": _post("chat", "A chat completion.", "ChatRequest", chat)},
        "/v1/completions": {"post": _post("completions", "A completion.", "CompletionRequest", texts)},
        "/v1/embeddings": {
            "post": _post("embeddings", "Embeddings.", "EmbeddingRequest", {200: json_of(ref("Embeddings"))})
        },
        "/v1/models": {"get": get("models", "What is served.", {200: json_of(ref("Models"))})},
        "/v1/models/{name}": {
            "get": get("model", "One model.", {200: json_of(ref("Model"))}, 404, parameters=[name])
        },
        "/v1/requests/{id}": {
            "get": get("request", "Where a request stands.", request, 404, 410, parameters=[ID]),
            "delete": get("cancel", "Cancel a request.", request, 404, 410, parameters=[ID, _PURGE]),
        },
        "/v1/requests/{id}/stream": {
            "get": get(
                "stream",
                "The rest of a stream.",
                {200: EVENTS, 204: None},
                404,
                410,
                500,
                parameters=[ID, *_AFTER, _TOKEN],
            )
        },
        "/v1/requests/{id}/stream-token": {
            "post": operation(
                "stream_token",
                "A URL of the stream for readers that can send no key.",
                {200: json_of(ref("StreamToken"))},
                (*ALWAYS, 404, 410, 413, 415),
                parameters=[ID],
                requestBody={"required": False, "content": json_of(object_of({}, expires_in=_SECONDS))},
            )
        },
        "/v1/responses": {
            "post": _post(
                "responses", "A response.", "ResponseRequest", {200: {**json_of(ref("Response")), **EVENTS}}
            )
        },
        **RESPONSES,
        **MESSAGES,
        **FILES,
        **USAGE,
        **TOKENS,
        **BATCHES,
        "/live": {"get": _open("live", "Whether the process answers.", {200: status})},
        "/health": {"get": _open("health", "Whether an instance serves.", {200: status, 503: status})},
        "/ping": {
            method: _open(f"ping_{method}", "As /health.", {200: status, 503: status})
            for method in ("get", "post")
        },
        "/version": {"get": get("version", "The release.", {200: json_of(object_of({"version": TEXT}))})},
        "/ready": {"get": _open("ready", "Whether all instances are there.", {200: ready, 503: ready})},
        "/metrics": {"get": _open("metrics", "For Prometheus.", {200: {"text/plain": {"schema": TEXT}}})},
        "/docs": {"get": _open("docs", "This API as a page.", {200: {"text/html": {"schema": TEXT}}})},
        PATH: {"get": get("openapi", "This document.", {200: json_of({"type": "object"})})},
    }


def _tag(path: str) -> str:
    """The group in which pages of the API show a path."""
    name = path.removeprefix("/v1/").partition("/")[0]
    if name in ("chat", "completions", "embeddings"):
        return "Generation"
    return name.capitalize() if path.startswith("/v1/") else "Tokens" if "tokenize" in path else "Server"


def document(routes: Sequence[ApiRoute] = ()) -> dict[str, Any]:
    """The document, as JSON.

    Args:
        routes: ``@api`` methods that are served, too; their bodies are said to be any JSON.
    """
    _, bodies = msgspec.json.schema_components(
        [ChatRequest, CompletionRequest, EmbeddingRequest, BatchRequest, MessagesRequest, *RESPONSES_BODIES],
        ref_template=REFS,
    )
    options = bodies["ChatRequest"]["properties"]
    bodies["MessagesRequest"]["properties"] |= {name: options[name] for name in OPTIONS if name in options}
    paths = _paths()
    for route in routes:
        answers = {200: {**json_of({}), **EVENTS}}
        method = operation(route.name, f"The method {route.name}.", answers, (*ALWAYS, *POSTED))
        if route.method not in ("GET", "DELETE"):
            method["requestBody"] = {"content": json_of({})}
        method["tags"] = ["Methods"]
        paths.setdefault(route.path, {})[route.method.lower()] = method
    for path, methods in paths.items():
        for method in methods.values():
            method.setdefault("tags", [_tag(path)])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dynamo-tasks",
            "version": _VERSION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"key": []}, {"azure": []}, {"anthropic": []}, {}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "azure": {"type": "apiKey", "in": "header", "name": "api-key"},
                "anthropic": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": {
                **bodies,
                **SCHEMAS,
                **RESPONSES_SCHEMAS,
                **MESSAGES_SCHEMAS,
                **FILES_SCHEMAS,
                **USAGE_SCHEMAS,
                **BATCHES_SCHEMAS,
                **TOKENS_SCHEMAS,
            },
        },
    }


class OpenApi:
    """``/openapi.json``."""

    def __init__(self, routes: Sequence[ApiRoute]):
        self._document = document(routes)

    async def show(self, request: Request) -> Response:
        """The document."""
        return json_response(self._document)
