"""Messages whose claim was refused: dropped, put off, or the rest of what Celery has to do for an ended request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from dynamo_tasks.errors import ProtocolError
from dynamo_tasks.protocol.events import End, ErrorInfo
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.states import State
from dynamo_tasks.queue.execution.call import CallInfo
from dynamo_tasks.queue.execution.context import LaneContext, WorkerContext
from dynamo_tasks.queue.execution.outcome import Dropped, Revoked
from dynamo_tasks.store.ledger.claim_refused import ClaimRefused, Refusal
from dynamo_tasks.store.redis.containment import contained, pass_over

__all__ = ["outcome_of_refused", "unusable"]


async def unusable(lane: LaneContext, endpoint: EndpointId, request_id: str, exc: Exception) -> NoReturn:
    """Fail a request whose record in Redis cannot be used, and notify those who wait for it.

    Raises:
        Dropped: always.
    """
    pass_over("ledger", request_id, exc)
    error = ProtocolError("the request's record in Redis cannot be used")
    end = End(State.FAILED, "error", error=ErrorInfo.of(error))
    with contained("ledger", request_id):
        await lane.ledger.cancel(endpoint.namespace, request_id, end=end)
    raise Dropped(error.code)


async def outcome_of_refused(
    worker: WorkerContext, lane: LaneContext, endpoint: EndpointId, call: CallInfo, refusal: ClaimRefused,
    settles: Callable[[bool], None],
) -> Any:  # fmt: skip
    """Do what is left to be done for a message whose claim was refused.

    Args:
        worker: What this process runs with.
        lane: The request's.
        endpoint: What the message asks for.
        call: The message.
        refusal: Why.
        settles: Called where Celery's completion follows and is to be noted; ``True``: it is all that is done here.

    Returns:
        The result of a request that succeeded earlier.

    Raises:
        Dropped: nothing is to be done, now.
        Revoked: it was cancelled, or its time has passed.
        Exception: the error with which it failed earlier.
    """
    # Where it runs here, its completion is under way, and this is a second copy of its message.
    if refusal.reason == Refusal.UNSETTLED and not worker.runs(call.id):
        # From here on it counts as running here, so that another copy of its message is dropped.
        settles(True)
        worker.enter_completion(call.id)
        return _outcome_again(refusal)
    if refusal.reason == Refusal.EXPIRED:
        await _expire(lane, endpoint.namespace, call, settles)
    elif refusal.reason == Refusal.WAIT:
        await lane.ledger.defer(endpoint.namespace, call.id, refusal.wait_ms, call.message())
    raise Dropped(refusal.reason)


async def _expire(lane: LaneContext, namespace: str, call: CallInfo, settles: Callable[[bool], None]) -> None:
    message = "its time passed in the queue"
    if await lane.ledger.expire(namespace, call.id, message) == "OK":
        if call.has_completion:
            settles(False)
        raise Revoked(message, expired=True)


def _outcome_again(refusal: ClaimRefused) -> Any:
    """It ended, but Celery's completion did not run to its end: run it again with the stored outcome."""
    if refusal.state is State.SUCCEEDED:
        return msgspec.json.decode(refusal.result) if refusal.result else None
    if refusal.state in (State.CANCELLED, State.EXPIRED):
        message = refusal.error.message if refusal.error else "cancelled"
        raise Revoked(message, expired=refusal.state is State.EXPIRED)
    raise (refusal.error or ErrorInfo("endpoint_error", "failed")).exception()
