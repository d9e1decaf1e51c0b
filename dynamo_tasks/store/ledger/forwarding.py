"""Verbs by which an owner lets go of a running request: forward it to an instance of another endpoint, or release it
for others. Its id and stream stay, and the attempt does not count."""

from __future__ import annotations

from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.store.ledger.ledger import Attempt
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.redis.server import Store

__all__ = ["forward", "preempt"]


async def forward(
    store: Store, attempt: Attempt, endpoint: EndpointId, instance_id: int, message: bytes, *,
    waits: bool = False, marks: bytes = b"",
) -> str:  # fmt: skip
    """Queue a running request for one instance of another endpoint of its namespace.

    Args:
        store: Redis.
        attempt: Ours; it does not count. Ask again with the same arguments where the reply was lost.
        endpoint: Who shall serve it.
        instance_id: The lease of the instance that was chosen.
        message: The Celery message for it.
        waits: It goes to the queue for late binding.
        marks: Of its prompt, where it goes there too while others wait there.

    Returns:
        ``OK``; ``SHARED`` where that instance is gone and any other one may take it; ``FENCED`` or ``GONE`` where
        the request is not ours any more.
    """
    keys = store.keys(endpoint.namespace)
    # The script looks for it: what is pushed to the own queue of an instance that is gone, nobody takes.
    registration = keys.registration(f"{endpoint.component}:{endpoint.name}:{instance_id:x}")
    reply = await script("forward").run(
        store.commands, [keys.record(attempt.id), keys.stream(attempt.id)], base=keys.base, id=attempt.id,
        lease=f"{attempt.lease:x}", epoch=attempt.epoch, endpoint=str(endpoint), shared=keys.prefix + endpoint.queue,
        own_queue=keys.prefix + endpoint.instance_queue(instance_id), registration=registration, message=message,
        late=keys.prefix + endpoint.late_queue if marks else "", waits=int(waits), marks=marks,
    )  # fmt: skip
    return str(reply.decode())


async def preempt(store: Store, attempt: Attempt, *, shared: bool = True) -> str:
    """Release a running request for others; it waits at the front of its own list.

    Args:
        store: Redis.
        attempt: Ours; it does not count. Ask again with the same arguments where the reply was lost.
        shared: Any instance of the component may go on with it; else the one in whose own queue it came.

    Returns:
        ``OK``; ``FENCED`` or ``GONE`` where the request is not ours any more.
    """
    keys = store.keys(attempt.namespace)
    reply = await script("preempt").run(
        store.commands, [keys.record(attempt.id), keys.stream(attempt.id)], base=keys.base, id=attempt.id,
        lease=f"{attempt.lease:x}", epoch=attempt.epoch, shared=int(shared),
    )  # fmt: skip
    return str(reply.decode())
