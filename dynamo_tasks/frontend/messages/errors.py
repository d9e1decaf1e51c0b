"""Errors in Anthropic's shape: ``{"type": "error", "error": {"type", "message"}, "request_id"}``.

The types are those of https://docs.claude.com/en/api/errors. Beside them stand ``code`` and ``param``, as in the
errors of the other APIs; clients pass over what they do not know.
"""

from __future__ import annotations

from typing import Any

from dynamo_tasks.errors import ContextLengthError, DynamoError

__all__ = ["error_of", "error_shape"]

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_NO_THREADS = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
"""By this the client's loop of tools knows that it has to send whole conversations."""
_TOO_LONG = "prompt is too long"
"""The words by which clients know that they have to shorten a conversation."""


def error_shape(
    status: int, message: str, code: str, param: str | None = None, request_id: str | None = None
) -> dict[str, Any]:
    """The JSON object of an error.

    Args:
        status: Of HTTP; it decides on the type.
        message: For people.
        code: Ours.
        param: The field at fault.
        request_id: Of the request.
    """
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")
    if code == ContextLengthError.code:
        message = f"{_TOO_LONG}: {message}"
    inner: dict[str, Any] = {"type": kind, "message": message, "code": code, "param": param}
    if param == "thread":
        inner["details"] = _NO_THREADS
    return {"type": "error", "error": inner, "request_id": request_id}


def error_of(error: DynamoError, request_id: str | None) -> dict[str, Any]:
    """The JSON object of an error of our tree."""
    return error_shape(error.http_status, error.message, error.code, error.param, request_id)
