"""The measurements of the HTTP side; the instruments are those of the telemetry catalogue."""

from __future__ import annotations

import time
from functools import cache

from prometheus_client import Counter, Gauge, Histogram

from dynamo_tasks.observe import metrics

__all__ = ["RequestMeter", "count_request"]

_SAMPLE = 16
"""One of so many deliveries of a stream is recorded: an observation costs more than a chunk."""


@cache
def _requests(api: str, status: int) -> Counter:
    return metrics.counter("http_requests_total", api=api, status=str(status))


@cache
def _seconds(api: str) -> Histogram:
    return metrics.histogram("http_request_seconds", api=api)


@cache
def _in_flight(api: str) -> Gauge:
    return metrics.gauge("http_in_flight", api=api)


@cache
def _tokens(model: str, kind: str) -> Counter:
    return metrics.counter("http_tokens_total", model=model, kind=kind)


@cache
def _first_token(model: str) -> Histogram:
    return metrics.histogram("time_to_first_token_seconds", model=model)


@cache
def _gap(model: str) -> Histogram:
    return metrics.histogram("inter_token_seconds", model=model)


def count_request(api: str, status: int) -> None:
    """Count a request that is not worth a meter."""
    _requests(api, status).inc()


class RequestMeter:
    """Measures one request of the OpenAI API.

    Attributes:
        model: The served model, once known; a name that a client made up never becomes a label.
    """

    __slots__ = ("_api", "_batches", "_counted", "_last", "_started", "model")

    def __init__(self, api: str):
        self.model = ""
        self._api = api
        self._batches = 0
        self._counted = 0
        self._started = self._last = time.perf_counter()
        _in_flight(api).inc()

    @property
    def seconds(self) -> float:
        """Seconds since the request came in."""
        return time.perf_counter() - self._started

    def delivered(self, tokens: int) -> None:
        """Note a delivery.

        Args:
            tokens: Tokens delivered since the start.
        """
        if not tokens:
            return
        batches = self._batches
        self._batches = batches + 1
        if not batches:
            _first_token(self.model).observe(time.perf_counter() - self._started)
        elif batches % _SAMPLE == 0:
            _gap(self.model).observe(time.perf_counter() - self._last)
            self._count(tokens)
        if (batches + 1) % _SAMPLE == 0:
            self._last = time.perf_counter()

    def done(self, status: int, tokens: int = 0, usage: dict[str, int] | None = None) -> None:
        """Note the end.

        Args:
            status: The HTTP status; of a stream that failed midway, the one that the error stands for.
            tokens: Tokens delivered in all.
            usage: Token counts of the request, where known.
        """
        _requests(self._api, status).inc()
        _seconds(self._api).observe(self.seconds)
        _in_flight(self._api).dec()
        self._count(tokens)
        for kind in ("prompt", "cached") if usage else ():
            if count := (usage or {}).get(f"{kind}_tokens", 0):
                _tokens(self.model, kind).inc(count)

    def _count(self, tokens: int) -> None:
        if tokens > self._counted:
            _tokens(self.model, "completion").inc(tokens - self._counted)
            self._counted = tokens
