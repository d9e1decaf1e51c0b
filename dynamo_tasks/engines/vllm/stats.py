"""vLLM's statistics, as far as this process publishes them."""

from __future__ import annotations

from typing import Any

__all__ = ["StatsCollector"]


class StatsCollector:
    """Takes what vLLM records after each step. The object itself is the factory that vLLM asks for.

    It has the methods of vLLM's ``StatLoggerBase``, which is not stable: only a few numbers are read, and one
    that is missing counts as zero.

    Attributes:
        waiting: Sequences that the scheduler has not started yet.
        kv_usage: Used share of the KV cache, 0..1, of the fullest engine core.
        queried: Prompt tokens that were looked for in the prefix cache.
        hits: Those that were there.
    """

    def __init__(self) -> None:
        self.queried = self.hits = 0
        self._waiting: dict[int, int] = {}
        self._kv_usage: dict[int, float] = {}

    def __call__(self, vllm_config: Any, engine_index: int = 0) -> StatsCollector:
        """The logger of one engine core: this one, for all of them."""
        return self

    @property
    def waiting(self) -> int:
        """Sequences that wait, over all engine cores."""
        return sum(self._waiting.values())

    @property
    def kv_usage(self) -> float:
        """Used share of the KV cache of the fullest engine core."""
        return max(self._kv_usage.values(), default=0.0)

    @property
    def prefix_hit_rate(self) -> float:
        """Share of prompt tokens that the prefix cache had, since the start."""
        return self.hits / self.queried if self.queried else 0.0

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        """vLLM's callback after a step."""
        if scheduler_stats is None:
            return
        self._waiting[engine_idx] = getattr(scheduler_stats, "num_waiting_reqs", 0)
        self._kv_usage[engine_idx] = getattr(scheduler_stats, "kv_cache_usage", 0.0)
        prefix = getattr(scheduler_stats, "prefix_cache_stats", None)
        if prefix is not None:
            self.queried += prefix.queries
            self.hits += prefix.hits

    def log_engine_initialized(self) -> None:
        """vLLM's callback; nothing to do."""

    def log(self) -> None:
        """vLLM's callback; nothing to do."""

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        """vLLM's callback; nothing to do."""
