"""Loads of workers as a router believes them to be: what they reported, and what it has sent them since."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["TRUST", "PredictedLoads", "RoutingLoad"]

TRUST = 5.0
"""Seconds for which a request counts that no report has named: it may wait in the worker's queue, or have gone."""


_REMEMBERED = 4096
"""Ids of requests that have reached a worker: a choice of another router may be heard of later than that."""


class RoutingLoad(NamedTuple):
    """The load of one worker.

    Attributes:
        prefill_tokens: Tokens of prompts that it has yet to compute.
        active_blocks: KV blocks that its requests need.
        active_requests: Requests that it has.
        total_blocks: KV blocks that it has; 0 = unknown.
    """

    prefill_tokens: float = 0
    active_blocks: float = 0
    active_requests: int = 0
    total_blocks: int = 0


class _Sent(NamedTuple):
    uncached: int
    blocks: int
    until: float


class PredictedLoads:
    """The loads of all workers.

    Every report replaces what was believed; the choices of other routers are in it. Of what this router sent, a report
    names what the worker has by now (``taken``). The rest still counts, for :data:`TRUST` seconds at most.
    """

    def __init__(self) -> None:
        self._reported: dict[int, RoutingLoad] = {}
        self._sent: dict[int, dict[str, _Sent]] = {}
        self._taken: OrderedDict[str, None] = OrderedDict()

    def report(
        self,
        worker: int,
        load: RoutingLoad,
        now: float,
        taken: Iterable[str] = (),
        *,
        older: float | None = None,
    ) -> None:
        """A worker has reported its load.

        Args:
            worker: Whose.
            load: What it is.
            now: Seconds.
            taken: Ids of the requests that have reached it since its last report.
            older: The report names no requests: those that were sent before have reached it.
        """
        self._reported[worker] = load
        sent = self._sent.setdefault(worker, {})
        for request_id in taken:
            sent.pop(request_id, None)
            self._taken[request_id] = None
        while len(self._taken) > _REMEMBERED:
            self._taken.popitem(last=False)
        if older is not None:
            for request_id in [name for name, one in sent.items() if one.until - TRUST <= older]:
                del sent[request_id]

    def sent(self, worker: int, request_id: str, uncached: int, blocks: int, now: float) -> None:
        """A request goes to a worker: ``uncached`` tokens to compute, ``blocks`` that nobody else there needs."""
        # The worker's report may overtake the news of another router's choice: then it is in that.
        if request_id not in self._taken:
            self._sent.setdefault(worker, {})[request_id] = _Sent(uncached, blocks, now + TRUST)

    def drop(self, worker: int) -> None:
        """Know a worker no more."""
        self._reported.pop(worker, None)
        self._sent.pop(worker, None)

    def of(self, worker: int, now: float) -> RoutingLoad:
        """The load of a worker, as it may be by now."""
        load, sent = self._reported.get(worker, RoutingLoad()), self._sent.get(worker)
        if not sent:
            return load
        for request_id in [name for name, one in sent.items() if one.until <= now]:
            del sent[request_id]
        return load._replace(
            prefill_tokens=load.prefill_tokens + sum(one.uncached for one in sent.values()),
            active_blocks=load.active_blocks + sum(one.blocks for one in sent.values()),
            active_requests=load.active_requests + len(sent),
        )
