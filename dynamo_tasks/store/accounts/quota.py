"""Limits of single tenants, shared by all frontends through Redis."""

from __future__ import annotations

from dynamo_tasks.protocol.http.limits import Allowance, KeyLimits
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.redis.server import Store

__all__ = ["Quota"]

_RETRY_OPEN = 1.0


class Quota:
    """Counts requests of tenants on one server."""

    def __init__(self, store: Store):
        self._store = store

    async def take(self, namespace: str, tenant: str, limits: KeyLimits, request_id: str = "") -> Allowance:
        """Count one request, unless it is one too many.

        Args:
            namespace: Where the request will live.
            tenant: Whose it is.
            limits: What the tenant may.
            request_id: Of the request that will be submitted; without one, only the rate is counted.

        Returns:
            What is left; with a ``reason`` where the request is refused.
        """
        keys = self._store.keys(namespace)
        code, left, reset, *more = await script("quota").run(
            self._store.commands, [keys.rate(tenant), keys.open(tenant)], base=keys.base, id=request_id,
            per_minute=limits.requests_per_minute, most=limits.concurrent_requests,
        )  # fmt: skip
        retry, reason = 0.0, ""
        if code == b"RATE":
            retry = int(more[0]) / 1000
            reason = f"more than {limits.requests_per_minute} requests per minute"
        elif code == b"OPEN":
            retry, reason = (
                _RETRY_OPEN,
                f"{int(more[0])} requests have not ended, as many as may run at a time",
            )
        return Allowance(
            limit=limits.requests_per_minute, remaining=int(left), reset=int(reset) / 1000, retry_after=retry,
            reason=reason,
        )  # fmt: skip

    async def release(self, namespace: str, tenant: str, request_id: str) -> None:
        """Uncount a request that was refused after :meth:`take`, among those that have not ended."""
        await self._store.commands.execute("ZREM", self._store.keys(namespace).open(tenant), request_id)
