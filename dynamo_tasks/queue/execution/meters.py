"""The instruments of one endpoint, looked up once."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter, Histogram

from dynamo_tasks.observe import metrics
from dynamo_tasks.protocol.names import EndpointId

__all__ = ["Meters", "meters_of"]


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
                metrics.counter("tokens_total", endpoint=self.name, kind=kind).inc(count)

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


def meters_of(endpoint: EndpointId) -> Meters:
    """The instruments of an endpoint."""
    return _labelled(endpoint.label)


_labelled = cache(Meters)
