"""Ways in which a worker lets go of a running request: to another endpoint, or back to its queue."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import msgspec

from dynamo_tasks.errors import ConfigError, DynamoError, FencedError, ServerUnavailableError
from dynamo_tasks.observe import metrics
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.events import End, ErrorInfo
from dynamo_tasks.protocol.states import State
from dynamo_tasks.queue.broker.envelope import HEADER, persisted
from dynamo_tasks.queue.execution.context import LaneContext, WorkerContext
from dynamo_tasks.queue.execution.outcome import Reassigned
from dynamo_tasks.sdk.context import ForwardRequested
from dynamo_tasks.store.ledger.forwarding import forward, preempt
from dynamo_tasks.store.ledger.ledger import Attempt
from dynamo_tasks.store.ledger.recovery import Recovery
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.streams.open_stream import OpenStream

__all__ = ["fail_above", "forward_request", "leave_dead_engine", "preempt_request", "requeue_request"]

_RETRY = 0.2


async def forward_request(
    store: Store, stream: OpenStream, wanted: ForwardRequested, message: bytes,
    fail: Callable[[BaseException], Awaitable[None]],
) -> NoReturn:  # fmt: skip
    """Give the request to the instance that was chosen; asked again until Redis answers.

    Args:
        store: Redis.
        stream: Of our attempt.
        wanted: To whom.
        message: The Celery message that brought it.
        fail: Ends the request with an error.

    Raises:
        Reassigned: it is theirs now.
        ConfigError: it cannot be forwarded; it has failed.
    """
    try:
        _check(wanted, stream)
    except ConfigError as exc:
        await fail(exc)
        raise
    attempt = stream.attempt
    message = _readdressed(message, wanted)
    while True:
        try:
            outcome = await forward(
                store,
                attempt,
                wanted.endpoint,
                wanted.instance_id,
                message,
                waits=wanted.late,
                marks=wanted.marks,
            )
        except ServerUnavailableError:
            await asyncio.sleep(_RETRY)
        else:
            break
    metrics.counter("requests_forwarded_total", endpoint=str(wanted.endpoint), outcome=outcome.lower()).inc()
    event(
        "request.forwarded", request_id=attempt.id, endpoint=str(wanted.endpoint),
        instance_id=f"{wanted.instance_id:x}", outcome=outcome.lower(),
    )  # fmt: skip
    raise Reassigned


async def preempt_request(worker: WorkerContext, lane: LaneContext, stream: OpenStream, queue: str) -> bool:
    """Queue a request again, whose endpoint was stopped for others' sake; asked again until Redis answers.

    Args:
        worker: What this process runs with.
        lane: The request's.
        stream: Of our attempt.
        queue: That the request was sent to; one that was sent to an instance by name stays with it.

    Returns:
        Whether it waits now; ``False``: it is not ours any more.
    """
    await lane.writer.written(stream)
    while True:
        try:
            outcome = await preempt(lane.store, stream.attempt, shared="." not in queue)
        except ServerUnavailableError:
            await asyncio.sleep(_RETRY)
        else:
            worker.preemption.total += outcome == "OK"
            return outcome == "OK"


async def leave_dead_engine(
    worker: WorkerContext, lane: LaneContext, stream: OpenStream, reason: str
) -> NoReturn:
    """Requeue a request after its engine died, as if this process had; another attempt may continue.

    Raises:
        Reassigned: always.
    """
    worker.on_engine_died(reason)
    await lane.writer.written(stream)
    attempt = stream.attempt
    # Where Redis is away, its owner's death is noticed by others once it is back.
    with contextlib.suppress(ServerUnavailableError):
        await Recovery(lane.store).requeue(attempt.namespace, attempt.id, attempt.lease)
    raise Reassigned


async def requeue_request(
    lane: LaneContext, stream: OpenStream, retries: int, *, front: bool, counts: bool
) -> NoReturn:
    """Give a request back to its queue; where it is another's by now, that one goes on.

    Args:
        lane: The request's.
        stream: Of our attempt.
        retries: Celery's retry number.
        front: To the front of the queue.
        counts: Whether the attempt counts among those that its endpoint may have.

    Raises:
        Reassigned: always.
    """
    await lane.writer.written(stream)
    with contextlib.suppress(FencedError):
        await lane.ledger.release(stream.attempt, retries=retries, front=front, counts=counts)
    raise Reassigned


async def fail_above(lane: LaneContext, attempt: Attempt, error: DynamoError) -> None:
    """End a request whose stream nobody can continue, above our epoch."""
    end = End(State.FAILED, "error", error=ErrorInfo.of(error))
    with contained("ledger", attempt.id):
        await lane.ledger.cancel(attempt.namespace, attempt.id, end=end)


def _check(wanted: ForwardRequested, stream: OpenStream) -> None:
    """Refuse another namespace, where the record is not, and a request that has values of ours."""
    if wanted.endpoint.namespace != stream.attempt.namespace:
        raise ConfigError(
            f"a request of namespace {stream.attempt.namespace!r} cannot be forwarded to {wanted.endpoint}: "
            "its record and its stream stay where they are"
        )
    if stream.busy or stream.top.seq:
        raise ConfigError(f"a request that has put out values cannot be forwarded to {wanted.endpoint}")


def _readdressed(raw: bytes, wanted: ForwardRequested) -> bytes:
    """The message for the other endpoint. Requeued, it goes to the component's queue: its instance goes down."""
    message: dict[str, Any] = msgspec.json.decode(raw)
    headers = message["headers"]
    headers |= {"task": str(wanted.endpoint), HEADER: persisted(headers.get(HEADER))}
    message["properties"]["delivery_info"]["routing_key"] = wanted.endpoint.queue
    return msgspec.json.encode(message)
