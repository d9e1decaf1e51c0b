"""What a load is, and what came of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Load", "Requests", "Result", "percentile"]

_GOLDEN = 0.6180339887498949
"""Multiples of it, without their whole parts, fill the unit interval evenly."""
_LENGTH = 7_654_321
"""Stands where a request's length goes, as wide as any."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What to send.

    Attributes:
        url: Root of the server, e.g. ``http://127.0.0.1:8000``.
        model: Served model name.
        concurrency: Connections.
        requests: Requests in all, after the warm-up.
        max_tokens: Of each request; with a spread, of all on average.
        spread: How much the lengths differ, 0 to 1: with 0.5, from half of ``max_tokens`` to one and a half times.
        warmup: Requests before the measurement, over the same connections.
        prompt_mode: ``unique`` (differs from its first word on) or ``shared`` (the same for all).
        prompt_chars: Length of the prompt.
        stream: Server-sent events, or one JSON body.
        timeout: Seconds that one request may take.
        ignore_eos: Send ``ignore_eos`` (a vLLM extension that others may refuse).
        api_key: Sent as a bearer token.
    """

    url: str
    model: str
    concurrency: int = 1
    requests: int = 100
    max_tokens: int = 64
    spread: float = 0.0
    warmup: int = 0
    prompt_mode: str = "unique"
    prompt_chars: int = 64
    stream: bool = True
    timeout: float = 120.0
    ignore_eos: bool = False
    api_key: str | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("concurrency", "requests", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.spread <= 1:
            raise ValueError(f"spread must be between 0 and 1, not {self.spread}")
        if self.prompt_mode not in ("unique", "shared"):
            raise ValueError(f"prompt_mode must be unique or shared, not {self.prompt_mode!r}")
        if urlsplit(self.url).scheme != "http" or not urlsplit(self.url).hostname:
            raise ValueError(f"url must be http://host:port, not {self.url!r}")

    def length(self, number: int) -> int:
        """How many tokens the request of this number asks for; spread evenly, and the same in every run."""
        place = 2 * (number * _GOLDEN % 1) - 1
        return max(1, round(self.max_tokens * (1 + self.spread * place)))


@dataclass
class Result:
    """What came back.

    Attributes:
        wall_s: From the first request after the warm-up to the last answer.
        cpu_s: CPU time of the load generator itself meanwhile.
        requests: Answers without an error.
        tokens: Output tokens of those.
        short: Answers with fewer tokens than asked for (a model may stop early).
        uncounted: Answers without a usage, whose tokens are counted as events with text.
        events: SSE events.
        errors: Texts of errors and how often.
        ttft: Seconds, one per request.
        itl: Seconds, one per delivery after the first text.
        tpot: Seconds per output token after the first, one per request.
        latency: Seconds, one per request.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    requests: int = 0
    tokens: int = 0
    short: int = 0
    uncounted: int = 0
    events: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    ttft: list[float] = field(default_factory=list)
    itl: list[float] = field(default_factory=list)
    tpot: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """The figures, JSON-able; times in ms, with three digits."""
        wall = self.wall_s or 1.0
        out: dict[str, Any] = {
            "requests": self.requests,
            "errors": sum(self.errors.values()),
            "error_texts": dict(self.errors.most_common(5)),
            "tokens": self.tokens,
            "short": self.short,
            "uncounted": self.uncounted,
            "events": self.events,
            "wall_s": round(self.wall_s, 4),
            "client_cpu_s": round(self.cpu_s, 4),
            "req_per_s": round(self.requests / wall, 3),
            "tok_per_s": round(self.tokens / wall, 1),
        }
        for name in ("ttft", "itl", "tpot", "latency"):
            values = sorted(getattr(self, name))
            for p in (50, 99):
                out[f"{name}_p{p}_ms"] = round(1000 * percentile(values, p), 3)
        return out


def percentile(ordered: Sequence[float], p: float) -> float:
    """The ``p``-th percentile of sorted values, linear between neighbours; 0 of none."""
    if not ordered:
        return 0.0
    at = (len(ordered) - 1) * p / 100
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


class Requests:
    """Makes the requests' bytes; nearly all of each is made once.

    Attributes:
        made: How many there were.
    """

    def __init__(self, load: Load):
        parts = urlsplit(load.url)
        self._load = load
        self.made = 0
        self._unique = load.prompt_mode == "unique"
        # Begins with the time, so that the prompts of two runs against one server differ too.
        self._number = time.monotonic_ns() // 1000 if self._unique else 0
        filler = "the quick brown fox jumps over the lazy dog " * (load.prompt_chars // 44 + 1)
        # The number comes first, so that no two prompts share a block of a prefix cache.
        mark = "@" * 8
        prompt = f"{mark} {filler}"[: max(load.prompt_chars, len(mark))]
        body: dict[str, Any] = {
            "model": load.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": _LENGTH,
        }
        if load.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if load.ignore_eos:
            body["ignore_eos"] = True
        payload = json.dumps(body).encode()
        authorization = f"authorization: Bearer {load.api_key}\r\n" if load.api_key else ""
        head = (
            f"POST {parts.path.rstrip('/')}/v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\n"
            f"content-type: application/json\r\n{authorization}content-length: {len(payload)}\r\n\r\n"
        )
        self._before, rest = (head.encode() + payload).split(mark.encode())
        self._between, self._after = rest.split(b"%d" % _LENGTH)

    def next(self) -> tuple[bytes, int]:
        """The next request, head and body, and how many tokens it asks for."""
        if self._unique:
            self._number += 1
        tokens = self._load.length(self.made)
        self.made += 1
        pieces = (self._before, self._number % 100_000_000, self._between, tokens, self._after)
        return b"%b%08d%b%7d%b" % pieces, tokens
