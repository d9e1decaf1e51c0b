"""Spans of distributed traces, for processes that use OpenTelemetry.

A process takes part once it has a tracer provider: made by its own code, by ``opentelemetry-instrument``, or by
:func:`configure` where ``OTEL_TRACES_EXPORTER`` is set. Nothing is imported here before that: without a provider
:func:`span` costs one dictionary lookup and gives :data:`OFF`, which does nothing.

A span belongs to the span that is current in its process (the user's own ones count), else to the ``traceparent``
that came with the request. :meth:`Span.carry` makes the headers for what it calls.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoints, entry_points
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dynamo_tasks.observe.catalogue import SPANS
from dynamo_tasks.observe.log import event, strict
from dynamo_tasks.protocol.trace import TRACE_HEADERS

if TYPE_CHECKING:
    from opentelemetry import trace as otel

__all__ = [
    "EXPORTER_VARIABLE", "OFF", "Attribute", "Span", "configure", "exporter_problems", "messaging", "span", "tracing",
]  # fmt: skip

EXPORTER_VARIABLE = "OTEL_TRACES_EXPORTER"
"""Names of span exporters, e.g. ``otlp`` or ``console``; OpenTelemetry's own variable."""

Attribute = str | int | float | bool | list[str]
_API = "opentelemetry.trace"


class Span:
    """A span that is not recorded; see :func:`span`. As a context manager it ends with its block."""

    traceparent = ""
    """Its position in its trace as a W3C header; empty without a trace."""

    def carry(self, headers: Mapping[str, str]) -> dict[str, str]:
        """``headers`` for what is called inside of the span."""
        return dict(headers)

    def set(self, name: str, value: Attribute | None) -> None:
        """Set an attribute; ``None`` is left out."""

    def link(self, traceparent: str) -> None:
        """Point to a span of which this one is no child."""

    def failed(self, reason: BaseException | str) -> None:
        """Note that the operation which it stands for failed."""

    def enter(self) -> None:
        """Make it the current span of the running task, up to its end: the user's spans are its children."""

    def end(self) -> None:
        """It is over; harmless when repeated."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(exc, Exception):
            self.failed(exc)
        self.end()


OFF = Span()
"""The span that :func:`span` gives while there is no tracer provider."""


def messaging(kind: str, name: str, message_id: str) -> dict[str, str]:
    """Attributes of what is done with a message, in the conventions' names.

    Args:
        kind: ``send`` or ``process``.
        name: What the system calls it.
        message_id: The id of the request, which its message has, too.
    """
    return {
        "messaging.system": "celery",
        "messaging.operation.type": kind,
        "messaging.operation.name": name,
        "messaging.message.id": message_id,
    }


def tracing() -> bool:
    """Return whether this process has a tracer provider."""
    return _api() is not None


def span(
    name: str, /, headers: Mapping[str, str] | None = None, attributes: Mapping[str, Attribute] | None = None
) -> Span:
    """Begin a span of the catalogue.

    Args:
        name: Its name there.
        headers: Those that came with the request.
        attributes: What is known at its start.

    Raises:
        LookupError: In strict mode only: the catalogue has no such span.
    """
    api = _api()
    if api is None:
        return OFF
    if strict() and name not in SPANS:
        raise LookupError(f"span {name!r} is not in the catalogue; known: {', '.join(SPANS)}")
    made = _Recorded(api, name, headers or {})
    for key, value in (attributes or {}).items():
        made.set(key, value)
    return made


def _api() -> Any:
    """OpenTelemetry's API where this process has a tracer provider."""
    api = sys.modules.get(_API)
    if api is None or isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
        return None
    return api


class _Recorded(Span):
    """A span of OpenTelemetry."""

    def __init__(self, api: Any, name: str, headers: Mapping[str, str]):
        self._name = name
        self._token: Any = None
        kind = api.SpanKind[SPANS[name].kind.upper() if name in SPANS else "INTERNAL"]
        self._span: otel.Span = api.get_tracer("dynamo_tasks").start_span(
            name, context=_parent(api, headers), kind=kind
        )
        self.traceparent = self.carry({}).get("traceparent", "")

    def carry(self, headers: Mapping[str, str]) -> dict[str, str]:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carried = {name: value for name, value in headers.items() if name != "tracestate"}
        TraceContextTextMapPropagator().inject(carried, context=trace.set_span_in_context(self._span))
        return carried

    def set(self, name: str, value: Attribute | None) -> None:
        if strict() and name not in SPANS[self._name].attributes:
            raise LookupError(f"span {self._name!r} has no attribute {name!r} in the catalogue")
        if value is not None:
            self._span.set_attribute(name, value)

    def link(self, traceparent: str) -> None:
        from opentelemetry import trace

        self._span.add_link(
            trace.get_current_span(_extracted({"traceparent": traceparent})).get_span_context()
        )

    def failed(self, reason: BaseException | str) -> None:
        from opentelemetry.trace import Status, StatusCode

        if isinstance(reason, BaseException):
            self._span.record_exception(reason)
            reason = f"{type(reason).__name__}: {reason}"
        self._span.set_status(Status(StatusCode.ERROR, reason))

    def enter(self) -> None:
        from opentelemetry import context, trace

        self._token = context.attach(trace.set_span_in_context(self._span))

    def end(self) -> None:
        if self._span.is_recording():
            self._span.end()
        self._leave()

    def _leave(self) -> None:
        from opentelemetry import context, trace

        token, self._token = self._token, None
        # Elsewhere than where it was entered there is nothing to take back: that task, and its context, have ended.
        if token is not None and trace.get_current_span() is self._span:
            context.detach(token)


def _parent(api: Any, headers: Mapping[str, str]) -> Any:
    """The context that a new span is made in; ``None`` is the current one."""
    if api.get_current_span().get_span_context().is_valid:
        return None
    return _extracted(headers)


def _extracted(headers: Mapping[str, str]) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {name: headers[name] for name in TRACE_HEADERS if name in headers}
    return TraceContextTextMapPropagator().extract(carrier, context=Context())


def configure(service: str, environ: Mapping[str, str] = os.environ) -> None:
    """Make a tracer provider where ``OTEL_TRACES_EXPORTER`` asks for one and the process has none.

    Args:
        service: ``service.name`` of its spans, unless ``OTEL_SERVICE_NAME`` is set.
        environ: ``os.environ`` by default. The SDK reads its other variables itself.
    """
    if not _names(environ) or tracing():
        return
    for problem in exporter_problems(environ):
        event("config.warning", key=EXPORTER_VARIABLE, problem=problem)
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        return
    named = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    provider = TracerProvider(resource=Resource.create(named))
    for name in _names(environ):
        if found := _exporters(name, environ):
            provider.add_span_processor(BatchSpanProcessor(next(iter(found)).load()()))
    trace.set_tracer_provider(provider)


def exporter_problems(environ: Mapping[str, str] = os.environ) -> list[str]:
    """List problems with ``OTEL_TRACES_EXPORTER``; as in OpenTelemetry, spans are lost, and nothing stops."""
    names = _names(environ)
    if names and not _installed():
        return ["the OpenTelemetry SDK is not installed: pip install 'dynamo-tasks[otel]'"]
    return [
        f"no installed package has a span exporter named {name!r}"
        for name in names
        if not _exporters(name, environ)
    ]


def _names(environ: Mapping[str, str]) -> list[str]:
    names = [name for part in environ.get(EXPORTER_VARIABLE, "").split(",") if (name := part.strip())]
    return [] if names == ["none"] else names


def _installed() -> bool:
    try:
        return find_spec("opentelemetry.sdk") is not None
    except ModuleNotFoundError:
        return False


def _exporters(name: str, environ: Mapping[str, str]) -> EntryPoints:
    return entry_points(group="opentelemetry_traces_exporter", name=_entry_point(name, environ))


def _entry_point(name: str, environ: Mapping[str, str]) -> str:
    """Under which name packages offer an exporter: ``otlp`` is one per protocol.

    https://opentelemetry.io/docs/specs/otel/protocol/exporter/#specify-protocol
    """
    if name != "otlp":
        return name
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    return "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
