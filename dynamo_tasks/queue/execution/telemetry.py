"""Telemetry of an attempt: metrics, whose instruments are looked up once, log events, and its span. Nothing of it
happens per token.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any

from prometheus_client import Counter, Histogram

from dynamo_tasks.observe import enabled, event, metrics
from dynamo_tasks.observe.tracing import OFF, Span, messaging, span
from dynamo_tasks.protocol.events import End
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.sdk.context import Context
from dynamo_tasks.store.ledger.ledger import Attempt, Ledger

__all__ = ["AttemptTelemetry", "Meters", "meters_of"]


class Meters:
    """The counters and histograms of one endpoint's executions."""

    def __init__(self, name: str):
        self.name = name
        self.claimed = metrics.counter("requests_claimed_total", endpoint=name)
        self.queue_wait = metrics.histogram("queue_wait_seconds", endpoint=name)
        self.ended = self.errors = 0
        self.seconds = 0.0
        self._seconds: dict[str, Histogram] = {}
        self._finished: dict[str, Counter] = {}

    def started(self, attempt: int, waited: float) -> None:
        """Count an attempt that began, after ``waited`` seconds in the queue."""
        self.claimed.inc()
        if attempt == 1:
            self.queue_wait.observe(waited)

    def fenced(self) -> None:
        """Count an attempt that was fenced."""
        metrics.counter("requests_fenced_total", endpoint=self.name).inc()

    def spent(self, usage: dict[str, int]) -> None:
        """Count the tokens of a request that ended."""
        for kind in ("prompt", "cached", "completion"):
            if count := usage.get(f"{kind}_tokens"):
                _tokens(self.name, kind).inc(count)

    def refused(self, reason: str) -> None:
        """Count a message that was dropped."""
        metrics.counter("requests_duplicate_total", endpoint=self.name, reason=reason.lower()).inc()

    def finished(self, state: str, seconds: float) -> None:
        """Count a request that this process ended, ``seconds`` after its claim."""
        self.ended += 1
        self.errors += state == "FAILED"
        self.seconds += seconds
        if state not in self._finished:
            self._finished[state] = metrics.counter(
                "requests_finished_total", endpoint=self.name, state=state
            )
            self._seconds[state] = metrics.histogram("request_seconds", endpoint=self.name, state=state)
        self._finished[state].inc()
        self._seconds[state].observe(seconds)

    def stats(self) -> dict[str, float]:
        """Requests that this process ended, and the time they took."""
        average = self.seconds / self.ended if self.ended else 0.0
        return {
            "requests": self.ended,
            "errors": self.errors,
            "processing_s": round(self.seconds, 6),
            "average_s": round(average, 6),
        }


@cache
def _tokens(endpoint: str, kind: str) -> Counter:
    return metrics.counter("tokens_total", endpoint=endpoint, kind=kind)


def meters_of(endpoint: EndpointId) -> Meters:
    """The instruments of an endpoint."""
    return _labelled(endpoint.label)


_labelled = cache(Meters)


class AttemptTelemetry:
    """Telemetry of one attempt at a request of an endpoint."""

    def __init__(self, endpoint: EndpointId):
        self._meters = meters_of(endpoint)
        self._started = 0.0
        self.name = self._meters.name
        self.span: Span = OFF

    def refused(self, request_id: str, reason: str) -> None:
        """The claim was refused: the message is not run."""
        self._meters.refused(reason)
        if enabled("request.duplicate"):
            event("request.duplicate", request_id=request_id, endpoint=self.name, reason=reason.lower())

    async def claimed(self, attempt: Attempt, context: Context, ledger: Ledger) -> None:
        """The attempt begins; what its endpoint calls belongs to its span."""
        self._meters.started(attempt.number, attempt.waited)
        self._started = time.monotonic()
        if enabled("request.claimed"):
            event(
                "request.claimed", request_id=attempt.id, endpoint=self.name, attempt=attempt.number,
                epoch=attempt.epoch, queue_wait_s=attempt.waited,
            )  # fmt: skip
        self.span = span("dynamo.run", context.headers)
        if self.span is not OFF:
            await self._begin_span(attempt, context, ledger)

    async def _begin_span(self, attempt: Attempt, context: Context, ledger: Ledger) -> None:
        self.span.set("dynamo.request_id", attempt.id)
        self.span.set("dynamo.endpoint", self.name)
        self.span.set("dynamo.attempt", attempt.number)
        self.span.set("dynamo.epoch", attempt.epoch)
        for name, value in messaging("process", "run", attempt.id).items():
            self.span.set(name, value)
        context.traced(self.span.carry(context.headers))
        predecessor = await ledger.trace(attempt, self.span.traceparent)
        if predecessor:
            self.span.link(predecessor)

    def explain(self, facts: Mapping[str, Any]) -> None:
        """Say why this worker took the request, where it was bound late."""
        for name, value in facts.items() if self.span is not OFF else ():
            self.span.set(f"dynamo.late.{name}", value)

    def fenced(self, attempt: Attempt) -> None:
        """Another attempt owns the request."""
        self._meters.fenced()
        event("request.fenced", request_id=attempt.id, endpoint=self.name, epoch=attempt.epoch)

    def stopped(self, attempt: Attempt, reason: str, seconds: float) -> None:
        """Its endpoint was stopped, ``seconds`` after somebody asked for it."""
        event(
            "request.stopped", request_id=attempt.id, endpoint=self.name, attempt=attempt.number, reason=reason,
            after_s=seconds,
        )  # fmt: skip

    def preempted(self, attempt: Attempt) -> None:
        """It was released for others."""
        metrics.counter("requests_preempted_total", endpoint=self.name).inc()
        if enabled("request.preempted"):
            event(
                "request.preempted", request_id=attempt.id, endpoint=self.name, epoch=attempt.epoch,
                ran_s=time.monotonic() - self._started,
            )  # fmt: skip

    def ended(self, attempt: Attempt, end: End) -> None:
        """The attempt has ended its request."""
        seconds = time.monotonic() - self._started
        self._meters.finished(end.state.value, seconds)
        self.span.set("dynamo.state", end.state.value)
        if end.usage is not None:
            self._meters.spent(end.usage)
        if enabled("request.finished"):
            event(
                "request.finished", request_id=attempt.id, endpoint=self.name, state=end.state.value,
                finish_reason=end.finish_reason, tokens=(end.usage or {}).get("completion_tokens"),
                duration_s=seconds,
            )  # fmt: skip
        if end.error is not None:
            self.span.failed(end.error.message)
            event(
                "request.failed", request_id=attempt.id, endpoint=self.name, attempt=attempt.number,
                code=end.error.code, error=end.error.message,
            )  # fmt: skip
