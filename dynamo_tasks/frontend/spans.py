"""The span of an HTTP request, where spans are recorded.

It has the names of OpenTelemetry's conventions,
https://opentelemetry.io/docs/specs/semconv/http/http-spans/ and …/gen-ai/gen-ai-spans/. ``url.query`` is left out: a
stream token may stand there.
"""

from __future__ import annotations

from starlette.types import Scope

from dynamo_tasks.frontend.http_call import HttpCall
from dynamo_tasks.observe.tracing import Attribute, Span, span
from dynamo_tasks.protocol.trace import TRACE_HEADERS

__all__ = ["end_http_span", "http_span"]

_CARRIED = {name.encode(): name for name in TRACE_HEADERS}
_GEN_AI_OPERATIONS = {
    "chat": "chat",
    "messages": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)


def http_span(call: HttpCall, scope: Scope) -> Span:
    """Begin it, below the ``traceparent`` that the client sent; it is the current one until its end."""
    headers = {
        _CARRIED[name]: value.decode("latin-1") for name, value in scope["headers"] if name in _CARRIED
    }
    made = span("dynamo.http", headers, _asked(scope) | _known(call))
    made.enter()
    return made


def _known(call: HttpCall) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {"dynamo.request_id": call.request_id}
    if call.api in _GEN_AI_OPERATIONS:
        found |= {
            "gen_ai.operation.name": _GEN_AI_OPERATIONS[call.api],
            "gen_ai.provider.name": "dynamo-tasks",
        }
    return found


def _asked(scope: Scope) -> dict[str, Attribute]:
    """The attributes that the request itself gives."""
    method = scope["method"]
    found: dict[str, Attribute] = {
        "http.request.method": method if method in _METHODS else "_OTHER",
        "http.route": scope["path"],
        "url.path": scope["path"],
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
    }
    if method not in _METHODS:
        found["http.request.method_original"] = method
    if client := scope.get("client"):
        found["client.address"] = client[0]
    for name, value in scope["headers"]:
        if name == b"user-agent":
            found["user_agent.original"] = value.decode("latin-1")
        elif name == b"host":
            host, _, port = value.decode("latin-1").rpartition(":")
            known = bool(host) and port.isdigit()
            found["server.address"] = (host if known else value.decode("latin-1")).strip("[]")
            if known:
                found["server.port"] = int(port)
    return found


def end_http_span(made: Span, status: int, model: str, usage: dict[str, int] | None = None) -> None:
    """End the span: the answer is sent, or the client has left."""
    made.set("http.response.status_code", status)
    made.set("gen_ai.request.model", model or None)
    if usage and status < 400:
        made.set("gen_ai.response.model", model or None)
        made.set("gen_ai.usage.input_tokens", usage.get("prompt_tokens"))
        made.set("gen_ai.usage.output_tokens", usage.get("completion_tokens"))
        made.set("gen_ai.usage.cache_read.input_tokens", usage.get("cached_tokens"))
    if status >= 500:
        made.set("error.type", str(status))
        made.failed(f"HTTP {status}")
    made.end()
