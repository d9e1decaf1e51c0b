"""A request on its way into the ledger: what is written, and what the ``submit`` script may answer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from dynamo_tasks.errors import (
    DeadlineUnreachableError,
    DynamoError,
    IdempotencyConflictError,
    QueueFullError,
)
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.versions import NEEDED
from dynamo_tasks.store.keys import Keys, namespaces_key, priority_suffix
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.ledger.notifications import tell_rejected, tell_submitted

__all__ = ["ABANDON_AFTER", "READ_RETENTION", "NewRequest", "left", "submit_call", "submitted"]

READ_RETENTION = 60.0
ABANDON_AFTER = 5.0
Call = tuple[Any, ...]
_clock = time.time


@dataclass(kw_only=True)
class NewRequest:
    """A request that is to be queued.

    Times are seconds. ``not_before``, ``deadline`` and ``expires`` are Unix times by the clock of this process; what
    travels is what is left until then, which counts from the server's time at submit: no two machines compare clocks.
    """

    id: str
    endpoint: EndpointId
    queue: str
    """Redis key of the queue, without priority."""
    message: bytes
    """The Celery message as kombu would push it."""
    priority: int = 0
    not_before: float = 0.0
    deadline: float = 0.0
    """It must have ended by then."""
    expires: float = 0.0
    """A worker must have started it by then."""
    reader: str = ""
    """Channel of the client process that reads it from the start."""
    render: bytes = b""
    owner_key: str = ""
    tenant: str = ""
    weight: float = 1.0
    """Of the tenant: its share of a component that is not enough for all."""
    through: tuple[str, ...] = ()
    """Components that it passes on later: their queues must not be full either."""
    background: bool = False
    abandon_after: float = ABANDON_AFTER
    retention: float | None = None
    """Of the log; default 60 s after the last reader saw the end, one hour where nobody did."""
    ignore_result: bool = False
    max_queue: int = 0
    """Most requests that may wait for the component; 0 = only what its workers have told the server."""
    idempotency_key: str = ""
    digest: str = ""
    """Of the payload: that of the idempotency key; without one, the only payload that the id stands for."""
    needs: int = NEEDED
    """Protocol version that its worker must speak."""

    def fields(self) -> list[str | bytes | int | float]:
        """Fields of the record that the script does not write itself, without those at their defaults."""
        made: list[str | bytes | int | float] = [Field.NEEDS, self.needs, Field.ENDPOINT, str(self.endpoint)]
        texts: list[tuple[str, str | bytes]] = [
            (Field.RENDER, self.render), (Field.OWNER_KEY, self.owner_key), (Field.TENANT, self.tenant),
            (Field.READERS, self.reader), (Field.SUFFIX, priority_suffix(self.priority)),
        ]  # fmt: skip
        for name, value in texts:
            if value:
                made += (name, value)
        if self.digest and not self.idempotency_key:
            made += (Field.DIGEST, self.digest)
        for name, is_so in ((Field.BACKGROUND, self.background), (Field.IGNORE_RESULT, self.ignore_result)):
            if is_so:
                made += (name, 1)
        if self.weight != 1.0:
            made += (Field.WEIGHT, self.weight)
        if self.abandon_after != ABANDON_AFTER:
            made += (Field.ABANDON_AFTER, int(self.abandon_after * 1000))
        if self.retention is not None:
            kept = int(self.retention * 1000)
            made += (Field.RETENTION, kept, Field.READ_RETENTION, kept)
        return made


def left(moment: float) -> int:
    """Milliseconds until a moment by the clock of this process, negative where it has passed; 0 = there is none."""
    return (round((moment - _clock()) * 1000) or -1) if moment else 0


def submit_call(keys: Keys, new: NewRequest) -> Call:
    """Keys and arguments of the ``submit`` script."""
    idem = keys.idempotency(new.tenant, new.idempotency_key) if new.idempotency_key else ""
    args: list[str | bytes | int | float] = [
        keys.base, namespaces_key(keys.prefix), new.endpoint.namespace, new.id, new.queue,
        priority_suffix(new.priority), left(new.not_before), left(new.deadline), new.reader,
        new.max_queue, idem, new.digest, new.message, " ".join((new.endpoint.component, *new.through)),
        left(new.expires), keys.db, str(new.endpoint), new.tenant, new.weight, *new.fields(),
    ]  # fmt: skip
    return [keys.record(new.id), keys.log(new.id)], *args


def submitted(new: NewRequest, reply: list[bytes]) -> str:
    """The id that the ``submit`` script answered with.

    Raises:
        IdempotencyConflictError: the key was used with another payload.
        QueueFullError: as many requests wait for the component as may.
        DeadlineUnreachableError: it would not be ready by its deadline.
    """
    code, value, *more = reply
    try:
        _check(new, code, value, more)
    except DynamoError as error:
        tell_rejected(new.endpoint, error.code)
        raise
    request_id = value.decode()
    if request_id == new.id:
        tell_submitted(new.id, new.endpoint, new.queue, new.priority)
    return request_id


def _check(new: NewRequest, code: bytes, value: bytes, more: list[bytes]) -> None:
    if code == b"CONFLICT":
        what = f"idempotency key {new.idempotency_key!r}" if new.idempotency_key else f"task_id {new.id!r}"
        raise IdempotencyConflictError(f"{what} was used with another payload")
    if code == b"FULL":
        raise QueueFullError(
            f"the queue of {more[0].decode()} holds {int(value)} requests, its limit", retry_after=1.0
        )
    if code == b"LATE":
        raise _late(new, int(value) / 1000, int(more[0]) / 1000)


def _late(new: NewRequest, wait: float, least: float) -> DeadlineUnreachableError:
    """Make the refusal of a request that would wait ``wait`` seconds and run for ``least`` at the least."""
    left = min(limit for limit in (new.deadline - least, new.expires) if limit > 0) - _clock()
    return DeadlineUnreachableError(
        f"{new.endpoint.component} is busy: the request would wait {wait:.1f} s, and then run for {least:.1f} s or "
        "more, which is past its deadline",
        retry_after=max(1.0, wait - left),
    )
