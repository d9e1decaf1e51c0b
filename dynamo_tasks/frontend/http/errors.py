"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from starlette.responses import Response

from dynamo_tasks.errors import (
    AlreadyRegisteredError,
    DeadlineExceededError,
    DynamoError,
    IdempotencyConflictError,
    NamespaceInUseError,
    RequestCancelledError,
    RequestExpiredError,
    StreamTooLargeError,
    WorkerLostError,
)
from dynamo_tasks.protocol.events import End, ErrorInfo

__all__ = [
    "ENCODINGS",
    "REQUEST_ID",
    "check_end",
    "describe",
    "encode_parts",
    "error_body",
    "error_payload",
    "error_response",
    "json_bytes",
    "json_response",
]

REQUEST_ID = "x-request-id"
"""The header that names the request."""
ENCODINGS = "gzip"
"""The coding that ``Content-Encoding`` may name, for ``Accept-Encoding`` of a refusal."""

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    499: "request_cancelled_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


_FINAL = (
    AlreadyRegisteredError,
    DeadlineExceededError,
    IdempotencyConflictError,
    NamespaceInUseError,
    RequestCancelledError,
    RequestExpiredError,
    StreamTooLargeError,
    WorkerLostError,
)
"""Errors after which sending the same request again cannot help, whatever a client makes of the status."""


def error_payload(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """The JSON object of an error."""
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_body(error: DynamoError) -> dict[str, Any]:
    """The JSON object of an error of our tree."""
    return error_payload(error.http_status, error.message, error.code, error.param)


def error_response(
    error: DynamoError, request_id: str | None = None, body: dict[str, Any] | None = None
) -> Response:
    """The HTTP answer for an error: its status, and whether and when a retry makes sense.

    ``x-should-retry`` and ``retry-after-ms`` are what the SDKs of OpenAI and Anthropic go by: they would send any 409
    and 5xx again.

    Args:
        error: What went wrong.
        request_id: For ``x-request-id``.
        body: The JSON object; in OpenAI's shape by default.
    """
    headers = {}
    if isinstance(error, _FINAL):
        headers["x-should-retry"] = "false"
    elif error.retry_after is not None or error.http_status in (429, 503):
        wait = error.retry_after or 1.0
        headers["retry-after"] = str(max(1, math.ceil(wait)))
        headers["retry-after-ms"] = str(max(1, math.ceil(wait * 1000)))
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.http_status == 415:
        headers["accept-encoding"] = ENCODINGS
    if error.http_status in (413, 415):
        headers["connection"] = "close"  # what is left of the body must not be taken for the next request
    return json_response(body or error_body(error), error.http_status, request_id, headers)


def json_response(
    value: object, status: int = 200, request_id: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """A JSON answer, with ``x-request-id`` where ``request_id`` is given."""
    return json_bytes(msgspec.json.encode(value), status, request_id, headers)


def json_bytes(
    raw: bytes, status: int = 200, request_id: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """An answer of JSON that is encoded already; see :func:`json_response`."""
    headers = dict(headers or {})
    if request_id is not None:
        headers[REQUEST_ID] = request_id
    return Response(raw, status, headers, "application/json")


def encode_parts(body: dict[str, Any]) -> bytes:
    """An object as JSON, the items of its lists one by one: in a thread, each lets the loop have its turn."""
    encode = msgspec.json.encode
    fields = []
    for name, value in body.items():
        parts = (
            b"[" + b",".join([encode(item) for item in value]) + b"]"
            if isinstance(value, list)
            else encode(value)
        )
        fields.append(encode(name) + b":" + parts)
    return b"{" + b",".join(fields) + b"}"


def check_end(end: End) -> None:
    """Raise what a request ended with, unless it ended well."""
    error = end.failure()
    try:
        if error is not None:
            raise error
    finally:
        del error  # its traceback has this frame: a circle that would keep the whole connection


def describe(error: ErrorInfo | None) -> dict[str, Any] | None:
    """The inner object of an error that is part of another answer."""
    inner: dict[str, Any] | None = error_body(error.exception())["error"] if error is not None else None
    return inner
