"""Memory of the Redis server, against the bytes that tokens take of streams, and the retention of these.

Measured: an event of one token takes 39 bytes of a stream, and an idle stream with its record 6 kB. A busy worker
batches several tokens into an event, so this is the upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from dynamo_tasks.store.ledger.submission import READ_RETENTION
from dynamo_tasks.store.redis.server import Store, parse_info

__all__ = ["BYTES_PER_TOKEN", "Memory", "memory_of"]

BYTES_PER_TOKEN = 39
BYTES_PER_REQUEST = 6000
_PACE = 50
"""Tokens per second of one request, generously."""


@dataclass(frozen=True)
class Memory:
    """Memory of the Redis server, in bytes.

    Attributes:
        used: By its data and buffers.
        limit: Its ``maxmemory``, or the machine's memory where it has none.
        capped: Whether it has a ``maxmemory``: then it refuses writes when full, and is not killed.
    """

    used: int
    limit: int
    capped: bool

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second that there is room for, each kept as long as a stream that was read to its end."""
        return max(0, self.limit - self.used) / (BYTES_PER_TOKEN * READ_RETENTION)

    def is_tight(self, slots: int) -> bool:
        """Return whether ``slots`` requests that run all the time, at 50 tokens/s each, might fill it."""
        kept = slots * (1 + READ_RETENTION / 10) * BYTES_PER_REQUEST
        return self.tokens_per_s < slots * _PACE or self.limit - self.used < kept

    def as_dict(self) -> dict[str, int | float | bool]:
        """Return it in the shape of ``status --json``."""
        return {
            "used": self.used, "limit": self.limit, "capped": self.capped, "bytes_per_token": BYTES_PER_TOKEN,
            "retention_s": READ_RETENTION, "tokens_per_s": round(self.tokens_per_s),
        }  # fmt: skip


async def memory_of(store: Store) -> Memory:
    """Ask the Redis server for its memory.

    Raises:
        ServerUnavailableError: it cannot be reached.
    """
    info = parse_info(await store.commands.execute("INFO", "memory"))
    cap = int(info.get("maxmemory", 0))
    return Memory(int(info["used_memory"]), cap or int(info.get("total_system_memory", 0)), cap > 0)
