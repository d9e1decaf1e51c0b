"""Dynamo's model of an engine: a step's length by its tokens of prompts and the context of those that decode.

A linear regression over forward passes (``perf_model/agg.py``). They are spread over buckets, and the oldest of the
fullest bucket goes first, so that a long time of one kind of load doesn't push out what is known of others.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque

from dynamo_tasks.planner.dynamo.settings import DynamoSettings
from dynamo_tasks.planner.observation import ForwardPass

__all__ = ["EngineModel"]

_Sample = tuple[float, float, float]


class _Mean:
    """A mean over the last figures."""

    def __init__(self, most: int) -> None:
        self._window: deque[float] = deque(maxlen=most)

    def add(self, value: float) -> None:
        if value or self._window:
            self._window.append(value)

    @property
    def value(self) -> float:
        return sum(self._window) / len(self._window) if self._window else 0.0


class EngineModel:
    """Learns from forward passes, and estimates times and rates."""

    def __init__(self, settings: DynamoSettings) -> None:
        self._settings = settings
        self._per_axis = math.isqrt(settings.fpm_sample_bucket_size)
        self._samples: deque[_Sample] = deque()
        self._plane: tuple[float, float, float] | None = None
        most = settings.max_num_fpm_samples
        self._prompt, self._context, self._prefill = _Mean(most), _Mean(most), _Mean(most)

    # -- learning ---------------------------------------------------------------------------------

    def add(self, step: ForwardPass) -> None:
        """Take one forward pass."""
        if step.prefills:
            self._prompt.add(step.prefill_tokens / step.prefills)
        if step.decodes:
            self._context.add(step.decode_kv_tokens / step.decodes)
        self._prefill.add(float(step.prefill_tokens))
        if step.seconds:
            self._samples.append((float(step.prefill_tokens), float(step.decode_kv_tokens), step.seconds))
            if len(self._samples) > self._settings.max_num_fpm_samples:
                self._retire()
            self._plane = None

    def _retire(self) -> None:
        buckets: dict[tuple[int, ...], list[_Sample]] = defaultdict(list)
        bounds = [(min(axis), max(axis)) for axis in zip(*self._samples, strict=True)][:2]
        for sample in self._samples:
            buckets[tuple(self._bucket(v, *b) for v, b in zip(sample, bounds, strict=False))].append(sample)
        self._samples.remove(max(buckets.values(), key=len)[0])

    def _bucket(self, value: float, low: float, high: float) -> int:
        share = (value - low) / (high - low) if high > low else 0.0
        return min(int(share * self._per_axis), self._per_axis - 1)

    @property
    def ready(self) -> bool:
        """``True`` once it has enough passes, and they make sense: more load never takes less time."""
        if self._plane is None and len(self._samples) >= self._settings.load_min_observations:
            plane = _fit(self._samples)
            self._plane = plane if plane is not None and min(plane[1:]) >= 0 else None
        return self._plane is not None

    # -- estimates --------------------------------------------------------------------------------

    def step(self, prefill: float, decode_kv: float) -> float:
        """Seconds of a step; the model must be ready."""
        assert self._plane is not None
        base, per_prompt, per_context = self._plane
        return max(1e-6, base + per_prompt * prefill + per_context * decode_kv)

    def ttft(self, queued: float, decode_kv: float, hit_rate: float = 0.0) -> float:
        """Seconds to the first token of the next request, behind so many tokens of prompts."""
        left = (queued + self._prompt.value) * (1 - min(max(hit_rate, 0.0), 1.0))
        most, seconds = self._settings.max_num_batched_tokens, 0.0
        while left > 0:
            seconds += self.step(min(left, most), decode_kv)
            left -= most
        return seconds

    def itl(self, decode_kv: float) -> float:
        """Seconds between two tokens with so much context, and one request more."""
        return self.step(self._prefill.value, decode_kv + self._context.value)

    def best_rate(self, prompt: float, output: float, kv_tokens: int, hit_rate: float) -> float:
        """Requests per second of one engine that keeps both targets, by Little's law; 0 = nothing came."""
        if prompt <= 0 or output <= 0:
            return 0.0
        rate = 0.0
        context = prompt + output / 2
        for batch in range(1, self._largest_batch(prompt, output, context, kv_tokens) + 1):
            prefill = min(
                batch * prompt * (1 - hit_rate) / max(1.0, output), self._settings.max_num_batched_tokens
            )
            seconds = self.step(prefill, batch * context)
            slow = (
                seconds > self._settings.itl or self.ttft(int(prefill), batch * context) > self._settings.ttft
            )
            if slow and batch > 1:
                break
            rate = batch / (output * seconds)
            if slow:
                break
        return rate

    def _largest_batch(self, prompt: float, output: float, context: float, kv_tokens: int) -> int:
        """By the KV cache, the sequences, and the balance of prompts that come in and answers that go out."""
        budget = self._settings.max_num_batched_tokens
        fits = max(1, int(kv_tokens / max(1.0, context))) if kv_tokens else 1024
        balanced = math.floor(budget - prompt / output)
        return max(1, min(fits, self._settings.max_num_seqs, budget - 1, balanced))


def _fit(samples: deque[_Sample]) -> tuple[float, float, float] | None:
    """Least squares of ``seconds = base + a·prefill + b·context``; of an axis that never moved, the factor is 0."""
    count = len(samples)
    x, y, z = (sum(axis) / count for axis in zip(*samples, strict=True))
    xx = sum((one[0] - x) ** 2 for one in samples)
    yy = sum((one[1] - y) ** 2 for one in samples)
    xy = sum((one[0] - x) * (one[1] - y) for one in samples)
    xz = sum((one[0] - x) * (one[2] - z) for one in samples)
    yz = sum((one[1] - y) * (one[2] - z) for one in samples)
    det = xx * yy - xy * xy
    if det > 1e-9 * max(1.0, xx * yy):
        a, b = (yy * xz - xy * yz) / det, (xx * yz - xy * xz) / det
    else:
        a, b = (xz / xx, 0.0) if xx >= yy and xx else (0.0, yz / yy if yy else 0.0)
    return z - a * x - b * y, a, b
