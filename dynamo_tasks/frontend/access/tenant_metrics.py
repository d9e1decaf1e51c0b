"""Metrics by tenant: what was asked for and answered, for so many tenants by name, for all others as ``other``.

A label costs memory in each process and at Prometheus, for ever; so those who make keys cannot make thousands of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dynamo_tasks.errors import RateLimitError
from dynamo_tasks.frontend.access.admission import key_id
from dynamo_tasks.frontend.access.configured import ApiKey
from dynamo_tasks.observe import metrics
from dynamo_tasks.protocol.http.limits import KeyLimits

__all__ = ["OTHER", "TenantMetrics"]

OTHER = "other"
"""The label of those that have none of their own."""


class TenantMetrics:
    """Counts for the tenants of one process.

    Args:
        most: Tenants with a label of their own; 0 = nothing is counted by tenant.
        configured: Keys of the settings: their tenants come first, then who asks first.
    """

    def __init__(self, most: int, configured: Iterable[ApiKey | str] = ()):
        self._most = most
        named = [key.limits.tenant for key in configured if isinstance(key, ApiKey)]
        self._labels = set(list(dict.fromkeys(filter(None, named)))[:most])

    def label(self, owner: str, limits: KeyLimits) -> str:
        """The label of a key: its tenant, ``key:<beginning of its name>`` where it is one of its own, or ``other``.

        Args:
            owner: Name of the key's owner; empty = nobody's.
            limits: Of the key.
        """
        if not (owner and self._most):
            return ""
        name = limits.tenant or f"key:{key_id(owner)}"
        if name in self._labels:
            return name
        if len(self._labels) >= self._most:
            return OTHER
        self._labels.add(name)
        return name

    def answered(
        self, owner: str, limits: KeyLimits, tokens: int, usage: Mapping[str, int] | None = None
    ) -> None:
        """Count an answered request.

        Args:
            owner: As of :meth:`label`.
            limits: The same.
            tokens: Of the answer, as far as it was delivered.
            usage: Token counts of the request, where known.
        """
        if not (tenant := self.label(owner, limits)):
            return
        metrics.counter("tenant_requests_total", tenant=tenant).inc()
        counts = {"completion": tokens}
        counts |= {kind: (usage or {}).get(f"{kind}_tokens", 0) for kind in ("prompt", "cached")}
        for kind, count in counts.items():
            if count:
                metrics.counter("tenant_tokens_total", tenant=tenant, kind=kind).inc(count)

    def refused(self, owner: str, limits: KeyLimits, why: BaseException) -> None:
        """Count a request that failed, if a limit of its key is the reason."""
        if isinstance(why, RateLimitError) and (tenant := self.label(owner, limits)):
            metrics.counter("tenant_refused_total", tenant=tenant, code=why.code).inc()
