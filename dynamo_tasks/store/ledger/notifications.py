"""Metrics and log events of the end of a request that no worker of this process ran."""

from __future__ import annotations

import contextlib

from dynamo_tasks.errors import ServerUnavailableError
from dynamo_tasks.observe import event, metrics
from dynamo_tasks.protocol.events import End
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.states import State
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.redis.server import Store

__all__ = ["notify_end"]


async def notify_end(store: Store, namespace: str, request_id: str, end: End) -> None:
    """Report that this process ended a request that it does not run; the endpoint's name is in the record."""
    with contextlib.suppress(ServerUnavailableError):
        raw = await store.commands.execute("HGET", store.keys(namespace).record(request_id), Field.ENDPOINT)
        endpoint = raw.decode() if raw else namespace
        label = EndpointId.parse(endpoint).label if raw else namespace
        metrics.counter("requests_finished_total", endpoint=label, state=end.state.value).inc()
        if end.state is State.EXPIRED:
            event("request.expired", request_id=request_id, endpoint=endpoint)
        elif end.state is State.CANCELLED:
            event("request.cancelled", request_id=request_id, endpoint=endpoint, reason=end.finish_reason)
