"""A request on its way into the ledger: what is written, and what the ``submit`` script may answer."""

from __future__ import annotations

import time
from functools import cache

from msgspec import Struct, field
from prometheus_client import Counter

from dynamo_tasks.errors import (
    DeadlineUnreachableError,
    DynamoError,
    IdempotencyConflictError,
    QueueFullError,
)
from dynamo_tasks.observe import enabled, event, metrics
from dynamo_tasks.protocol.account import Account
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.options import RequestOptions
from dynamo_tasks.protocol.versions import NEEDED
from dynamo_tasks.store.keys import Keys, namespaces_key
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.ledger.scripts import Argument
from dynamo_tasks.store.queue_keys import priority_suffix

__all__ = [
    "READ_RETENTION",
    "Call",
    "NewRequest",
    "idempotency_owner",
    "left",
    "report_rejected",
    "submit_call",
    "submitted",
]

READ_RETENTION = 60.0
_DEFAULT = RequestOptions()
Call = tuple[list[str], list[Argument], dict[str, Argument]]
"""Keys of a script, arguments that follow the named ones, and these."""
_clock = time.time


class NewRequest(Struct, kw_only=True, gc=False):
    """A request that is to be queued: what it is, for whom, and its options."""

    id: str
    endpoint: EndpointId
    queue: str
    """Redis key of the queue, without priority."""
    message: bytes
    """The Celery message as kombu would push it."""
    options: RequestOptions = field(default_factory=RequestOptions)
    reader: str = ""
    """Channel of the client process that reads it from the start."""
    render: bytes = b""
    owner_key: str = ""
    through: tuple[str, ...] = ()
    """Components that it passes on later: their queues must not be full either."""
    digest: str = ""
    """Of the payload: that of the idempotency key; without one, the only payload that the id stands for."""
    document: bytes = b""
    """What an API keeps beside the record, as long as that; see :mod:`dynamo_tasks.store.documents`."""
    account: Account | None = None
    """What it is charged to its API key; ``None`` = it counts for nobody."""
    marks: bytes = b""
    """Of its prompt, where it may wait for late binding; see :mod:`dynamo_tasks.router.late`."""
    waits: bool = False
    """It goes to the queue for late binding, not to ``queue``."""
    needs: int = NEEDED
    """Protocol version that its worker must speak."""
    lane: int = 0
    """Number of the lane that it lives on, from 1; 0 = chosen by its id (:mod:`dynamo_tasks.store.lanes.directory`)."""
    fresh: bool = False
    """Its id is new: nobody can have submitted it before, or will under the same one."""

    def fields(self) -> list[Argument]:
        """Fields of the record that ``submit`` does not write itself, without those at their defaults."""
        options = self.options
        # What is at its default is not written: each field costs memory for as long as the record is kept.
        made: list[Argument] = [Field.NEEDS, self.needs]
        texts: list[tuple[str, str | bytes]] = [
            (Field.RENDER, self.render), (Field.OWNER_KEY, self.owner_key), (Field.TENANT, options.tenant),
            (Field.READERS, self.reader), (Field.SUFFIX, priority_suffix(options.priority)),
        ]  # fmt: skip
        for name, value in texts:
            if value:
                made += (name, value)
        if self.marks:
            made += (Field.MARKS, self.marks)
        if self.account is not None:
            made += (Field.ACCOUNT, self.account.kept())
        if self.digest and not options.idempotency_key:
            made += (Field.DIGEST, self.digest)
        for name, is_so in (
            (Field.BACKGROUND, options.background),
            (Field.IGNORE_RESULT, options.ignore_result),
            (Field.PREEMPTIBLE, options.preemptible),
        ):
            if is_so:
                made += (name, 1)
        if options.weight != _DEFAULT.weight:
            made += (Field.WEIGHT, options.weight)
        if options.abandon_after != _DEFAULT.abandon_after:
            made += (Field.ABANDON_AFTER, int(options.abandon_after * 1000))
        if options.retention is not None:
            kept = int(options.retention * 1000)
            made += (Field.RETENTION, kept, Field.READ_RETENTION, kept)
        return made


def left(moment: float) -> int:
    """Milliseconds until a moment by the clock of this process, negative where it has passed; 0 = there is none."""
    return (round((moment - _clock()) * 1000) or -1) if moment else 0


def idempotency_owner(new: NewRequest) -> str:
    """Whose an idempotency key is: the API key's, since others of its tenant have their own; else the tenant's."""
    return new.owner_key or new.options.tenant


def submit_call(keys: Keys, new: NewRequest) -> Call:
    """Keys and arguments of the ``submit`` script.

    Moments go as the time that is left until them, to which the script adds Redis's clock: that of the caller's machine
    may be another.
    """
    options = new.options
    idem = (
        keys.idempotency(idempotency_owner(new), options.idempotency_key) if options.idempotency_key else ""
    )
    late = keys.prefix + new.endpoint.late_queue if new.marks else ""
    named: dict[str, Argument] = {
        "base": keys.base, "namespaces": namespaces_key(keys.prefix), "namespace": new.endpoint.namespace,
        "queue": late if new.waits else new.queue, "suffix": priority_suffix(options.priority),
        "starts_in": left(options.not_before), "ends_in": left(options.deadline),
        "expires_in": left(options.expires), "reader": new.reader, "most_waiting": options.max_queue, "idem": idem,
        "digest": new.digest, "message": new.message, "through": " ".join((new.endpoint.component, *new.through)),
        "db": keys.db, "endpoint": str(new.endpoint), "tenant": options.tenant, "weight": options.weight,
        "document": new.document, "owner_key": new.owner_key,
        "late": late,
        "budget": "" if new.account is None else new.account.budget(),
    }  # fmt: skip
    return [keys.record(new.id)], new.fields(), named


def submitted(new: NewRequest, reply: list[bytes]) -> str:
    """The id that the ``submit`` script answered with.

    Raises:
        IdempotencyConflictError: the key was used with another payload.
        QueueFullError: as many requests wait for the component as may.
        DeadlineUnreachableError: it would not be ready by its deadline.
        RateLimitError: its API key has too few tokens left.
    """
    code, value, *more = reply
    try:
        _check(new, code, value, more)
    except DynamoError as error:
        report_rejected(new.endpoint, error.code)
        raise
    request_id = value.decode()
    # Another id is an earlier request of the same idempotency key, which was counted when it came.
    if request_id == new.id:
        if new.account is not None and len(more) == 2:
            new.account.accepted(int(more[0]), int(more[1]))
        _report_submitted(new)
    return request_id


def _check(new: NewRequest, code: bytes, value: bytes, more: list[bytes]) -> None:
    if code == b"CONFLICT":
        key = new.options.idempotency_key
        what = f"idempotency key {key!r}" if key else f"task_id {new.id!r}"
        raise IdempotencyConflictError(f"{what} was used with another payload")
    if code == b"FULL":
        raise QueueFullError(
            f"the queue of {more[0].decode()} holds {int(value)} requests, its limit", retry_after=1.0
        )
    if code == b"BUDGET" and new.account is not None:
        raise new.account.refusal(value.decode(), *map(int, more))
    if code == b"LATE":
        raise _late(new, int(value) / 1000, int(more[0]) / 1000)


def _late(new: NewRequest, wait: float, least: float) -> DeadlineUnreachableError:
    """Make the refusal of a request that would wait ``wait`` seconds and run for ``least`` at the least."""
    left = min(limit for limit in (new.options.deadline - least, new.options.expires) if limit > 0) - _clock()
    return DeadlineUnreachableError(
        f"{new.endpoint.component} is busy: the request would wait {wait:.1f} s, and then run for {least:.1f} s or "
        "more, which is past its deadline",
        retry_after=max(1.0, wait - left),
    )


@cache
def _submitted(label: str) -> Counter:
    return metrics.counter("requests_submitted_total", endpoint=label)


def _report_submitted(new: NewRequest) -> None:
    _submitted(new.endpoint.label).inc()
    if enabled("request.submitted"):
        event(
            "request.submitted", request_id=new.id, endpoint=str(new.endpoint), queue=new.queue,
            priority=new.options.priority,
        )  # fmt: skip


def report_rejected(endpoint: EndpointId, code: str) -> None:
    """Report that a request was refused before it was queued."""
    metrics.counter("requests_rejected_total", endpoint=str(endpoint), code=code).inc()
