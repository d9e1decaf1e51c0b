"""The span of an HTTP request."""

from __future__ import annotations

from starlette.types import Scope

from dynamo_tasks.frontend.call import Call
from dynamo_tasks.observe.tracing import OFF, Span, span, tracing
from dynamo_tasks.protocol.trace import TRACE_HEADERS

__all__ = ["end_http_span", "http_span"]

_CARRIED = {name.encode(): name for name in TRACE_HEADERS}


def http_span(call: Call, scope: Scope) -> Span:
    """Begin it, below the ``traceparent`` that the client sent; it is the current one until its end."""
    if not tracing():
        return OFF
    headers = {
        _CARRIED[name]: value.decode("latin-1") for name, value in scope["headers"] if name in _CARRIED
    }
    made = span("dynamo.http", headers, {"http.route": scope["path"], "dynamo.request_id": call.request_id})
    made.enter()
    return made


def end_http_span(made: Span, status: int, model: str) -> None:
    """The answer is sent, or the client has left."""
    made.set("http.response.status_code", status)
    made.set("gen_ai.request.model", model or None)
    if status >= 500:
        made.failed(f"HTTP {status}")
    made.end()
