"""What is told of transitions that no worker makes: a request was queued, or somebody else than its owner ended it."""

from __future__ import annotations

import contextlib

from dynamo_tasks.errors import ServerUnavailableError
from dynamo_tasks.observe import enabled, event, metrics
from dynamo_tasks.protocol.events import End
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.states import State
from dynamo_tasks.store.redis.server import Store

__all__ = ["notify_end", "tell_rejected", "tell_submitted"]


def tell_submitted(request_id: str, endpoint: EndpointId, queue: str, priority: int) -> None:
    """A request was put into its queue."""
    name = str(endpoint)
    metrics.counter("requests_submitted_total", endpoint=endpoint.label).inc()
    if enabled("request.submitted"):
        event("request.submitted", request_id=request_id, endpoint=name, queue=queue, priority=priority)


def tell_rejected(endpoint: EndpointId, code: str) -> None:
    """A request was refused before it was queued."""
    metrics.counter("requests_rejected_total", endpoint=str(endpoint), code=code).inc()


async def notify_end(store: Store, namespace: str, request_id: str, end: End) -> None:
    """A request was ended by this process, which does not run it; its record says whose it was."""
    with contextlib.suppress(ServerUnavailableError):
        raw = await store.commands.execute("HGET", store.keys(namespace).record(request_id), "en")
        endpoint = raw.decode() if raw else namespace
        label = EndpointId.parse(endpoint).label if raw else namespace
        metrics.counter("requests_finished_total", endpoint=label, state=end.state.value).inc()
        if end.state is State.EXPIRED:
            event("request.expired", request_id=request_id, endpoint=endpoint)
        elif end.state is State.CANCELLED:
            event("request.cancelled", request_id=request_id, endpoint=endpoint, reason=end.finish_reason)
