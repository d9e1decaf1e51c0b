"""The ledger: one record per request, one verb per transition. The fields of a record are in
:mod:`dynamo_tasks.store.ledger.fields`.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import msgspec

from dynamo_tasks.errors import (
    FencedError,
    RequestCancelledError,
    RequestExpiredError,
    RequestNotFoundError,
    ServerUnavailableError,
)
from dynamo_tasks.protocol.events import Claim, End, ErrorInfo, EventId
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.states import State
from dynamo_tasks.protocol.versions import PROTOCOL
from dynamo_tasks.store.keys import Keys
from dynamo_tasks.store.ledger.claim_refused import refused
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.ledger.notifications import notify_end
from dynamo_tasks.store.ledger.record import Record, read_record
from dynamo_tasks.store.ledger.scripts import Argument, script
from dynamo_tasks.store.ledger.submission import NewRequest, left, submit_call, submitted
from dynamo_tasks.store.ledger.upkeep import Upkeep
from dynamo_tasks.store.queue_keys import PRIORITY_SEPARATOR
from dynamo_tasks.store.redis.server import Store

__all__ = [
    "Attempt",
    "KeptResult",
    "Ledger",
    "cancelled",
    "finish_arguments",
    "release_call",
]


@dataclass(kw_only=True)
class Attempt:
    """A claim that was granted."""

    namespace: str
    id: str
    lease: int
    nonce: str
    epoch: int
    previous: EventId
    number: int
    readers: list[str]
    deadline: float
    """Unix time by the clock of this process; 0 = none."""
    waited: float = 0.0
    """Seconds from its submit (or its time) to this claim."""
    fields: list[bytes] = field(repr=False)
    """Fields of the record to restore it from, should Redis forget it."""
    message: Callable[[], bytes] | None = field(default=None, repr=False)
    """Makes the Celery message, for the same."""

    @property
    def tenant(self) -> str:
        """The tenant whose request it is."""
        return self._kept(Field.TENANT).decode()

    @property
    def weight(self) -> float:
        """The tenant's share."""
        return float(self._kept(Field.WEIGHT) or 1)

    @property
    def created(self) -> int:
        """When it was submitted: milliseconds since 1970 by Redis's clock."""
        return int(self._kept(Field.CREATED) or 0)

    @property
    def step(self) -> int:
        """The priority step of its list."""
        return int(self._kept(Field.SUFFIX).decode().rpartition(PRIORITY_SEPARATOR)[2] or 0)

    @property
    def preemptible(self) -> bool:
        """``True`` if it may be released for others."""
        return self._kept(Field.PREEMPTIBLE) == b"1"

    @property
    def accounted(self) -> bool:
        """``True`` if somebody is charged for it."""
        return bool(self._kept(Field.ACCOUNT))

    def _kept(self, field: Field) -> bytes:
        return self._by_name.get(field.encode(), b"")

    @cached_property
    def _by_name(self) -> dict[bytes, bytes]:
        return dict(zip(self.fields[::2], self.fields[1::2], strict=True))

    @property
    def claim(self) -> Claim:
        """Its ``k`` event."""
        return Claim(self.previous, self.number, self.lease)


class KeptResult(NamedTuple):
    """The result of a success as Celery's backend stores it, and publishes it to those who wait.

    Attributes:
        key: Where; also the channel.
        ttl: Seconds; 0 = for ever.
        value: Encoded.
        inbox: A further channel on which it is published; '' = none.
    """

    key: bytes
    ttl: int
    value: str | bytes
    inbox: bytes | str = ""


_NOT_KEPT = KeptResult(b"", 0, b"")


class Ledger:
    """The verbs. All of them are safe to repeat when a reply was lost.

    Attributes:
        upkeep: Those that belong to no attempt.
    """

    def __init__(self, store: Store):
        self.store = store
        self.upkeep = Upkeep(store)

    def _keys(self, namespace: str, request_id: str) -> list[str]:
        keys = self.store.keys(namespace)
        return [keys.record(request_id), keys.stream(request_id)]

    async def submit(self, new: NewRequest) -> str:
        """Queue a request; returns the id of the request that stands for it.

        That is another id where the idempotency key is known, and the same id, unchanged, where the
        request was submitted before.

        Raises:
            IdempotencyConflictError: the key was used with another payload.
            QueueFullError: as many requests wait for the component as may.
            DeadlineUnreachableError: it would not be ready by its deadline.
        """
        keys, more, named = submit_call(self.store.keys(new.endpoint.namespace), new)
        return submitted(new, await script("submit").run(self.store.commands, keys, *more, **named))

    async def claim(
        self, endpoint: EndpointId, request_id: str, lease: int, *, retries: int, tracked: bool,
        queue: str, message: bytes, nonce: str | None = None,
    ) -> Attempt:  # fmt: skip
        """Claim a request for this instance.

        Args:
            endpoint: What the message asks for.
            request_id: Celery task id.
            lease: Of the claiming instance.
            retries: The message's Celery retry number.
            tracked: Whether the message carries our header, i.e. was written together with a record.
            queue: Key of the queue it came from, for the record of an untracked message.
            message: The message, for the same.
            nonce: Of this claim; ask again with the same one where the reply was lost.

        Raises:
            ClaimRefused: do not run it; says why.
        """
        # The script grants a claim with the nonce of the last one again: a lost reply costs no attempt.
        nonce = nonce or secrets.token_hex(8)
        keys = self.store.keys(endpoint.namespace)
        extra: list[Argument] = []
        # A bare Celery message, of a client that knows nothing of us: its record is made when it is claimed.
        if not tracked:
            new = NewRequest(id=request_id, endpoint=endpoint, queue=queue, message=message)
            extra = [*new.fields(), Field.ENDPOINT, str(endpoint), Field.QUEUE, queue, Field.MESSAGE, message]
        reply = await script("claim").run(
            self.store.commands, [keys.record(request_id)], *extra, base=keys.base, lease=f"{lease:x}", nonce=nonce,
            retry_number=retries, tracked=int(tracked), namespaces=self.store.keys.namespaces,
            namespace=endpoint.namespace, speaks=PROTOCOL, component=endpoint.component,
        )  # fmt: skip
        if reply[0] != b"OK":
            raise refused(reply)
        _, epoch, previous, number, readers, ms_left, fields, waited = reply
        # The script gives what is left of the deadline, not a time of day: clocks of machines differ.
        return Attempt(
            namespace=endpoint.namespace, id=request_id, lease=lease, nonce=nonce, epoch=int(epoch),
            previous=EventId.parse(previous.decode()), number=int(number), readers=keys.readers(readers.decode()),
            deadline=time.time() + int(ms_left) / 1000 if int(ms_left) else 0.0, fields=fields,
            waited=int(waited) / 1000,
        )  # fmt: skip

    async def finish(
        self, attempt: Attempt, *, top: EventId, end: End, result: bytes, settled: bool,
        kept: KeptResult | None = None,
    ) -> str:  # fmt: skip
        """End a request as its owner. Returns ``OK``, ``FENCED``, ``GONE`` or ``BEHIND`` (resync, then again)."""
        # A top of an earlier epoch: this attempt has put out nothing, so the end is its first event.
        event_id = EventId(attempt.epoch, top.seq + 1 if top.epoch == attempt.epoch else 1)
        error = msgspec.json.encode(end.error) if end.error else b""
        keys = self.store.keys(attempt.namespace)
        reply = await script("finish").run(
            self.store.commands, [keys.record(attempt.id)], **finish_arguments(
                keys.base, attempt, top, event_id, end.encode(), end.state, result=result,
                error=error, settled=settled, kept=kept,
            ),
        )  # fmt: skip
        return str(reply.decode())

    async def trace(self, attempt: Attempt, traceparent: str) -> str:
        """Note the span of an attempt; returns that of the attempt before, or ``""``: also when nobody answers."""
        keys = self._keys(attempt.namespace, attempt.id)
        # A trace may have a hole; no request waits for it.
        with contextlib.suppress(ServerUnavailableError):
            reply = await script("trace").run(
                self.store.commands, keys, base=self.store.keys(attempt.namespace).base, lease=f"{attempt.lease:x}",
                epoch=attempt.epoch, traceparent=traceparent,
            )  # fmt: skip
            return str(reply.decode())
        return ""

    async def settle(self, namespace: str, request_id: str) -> None:
        """Note that Celery's completion has run to its end."""
        await script("settle").run(
            self.store.commands, self._keys(namespace, request_id), base=self.store.keys(namespace).base, id=request_id,
        )  # fmt: skip

    async def release(
        self, attempt: Attempt, *, retries: int, not_before: float = 0.0, message: bytes = b"",
        front: bool = False, counts: bool = True,
    ) -> None:  # fmt: skip
        """Give a running request back to its queue.

        Raises:
            FencedError: it is not ours any more.
        """
        keys, named = release_call(
            self.store.keys(attempt.namespace), attempt.id, attempt.lease, attempt.epoch, retries=retries,
            not_before=not_before, message=message, front=front, counts=counts,
        )  # fmt: skip
        reply = await script("release").run(self.store.commands, keys, **named)
        if reply != b"OK":
            raise FencedError(f"request {attempt.id} is not owned by this attempt any more")

    async def cancel(
        self, namespace: str, request_id: str, *, end: End | None = None, guard: str = ""
    ) -> str:
        """End a request that is not ours to finish. Returns ``OK``, ``ENDED``, ``GONE`` or ``GUARDED``."""
        end = end or cancelled()
        reply = await script("cancel").run(
            self.store.commands, self._keys(namespace, request_id), base=self.store.keys(namespace).base, id=request_id,
            db=self.store.address.db, data=end.encode(), state=end.state, error=msgspec.json.encode(end.error),
            guard=guard,
        )  # fmt: skip
        # Only who has ended it counts it: the script says ENDED to all others.
        if reply == b"OK":
            await notify_end(self.store, namespace, request_id, end)
        return str(reply.decode())

    async def expire(self, namespace: str, request_id: str, reason: str) -> str:
        """End a QUEUED request whose time has passed. Returns ``OK``, ``ENDED``, ``GONE`` or ``RUNNING``."""
        end = End(State.EXPIRED, "expired", error=ErrorInfo.of(RequestExpiredError(reason)))
        reply = await script("expire").run(
            self.store.commands, self._keys(namespace, request_id), base=self.store.keys(namespace).base, id=request_id,
            db=self.store.address.db, data=end.encode(), error=msgspec.json.encode(end.error),
        )  # fmt: skip
        if reply == b"OK":
            await notify_end(self.store, namespace, request_id, end)
        return str(reply.decode())

    async def defer(self, namespace: str, request_id: str, wait_ms: int, message: bytes) -> bool:
        """Keep a message that came too early in the ledger until its time."""
        reply = await script("defer").run(
            self.store.commands, self._keys(namespace, request_id), base=self.store.keys(namespace).base,
            id=request_id, wait=wait_ms, message=message,
        )  # fmt: skip
        return bool(reply)

    async def get(self, request_id: str, namespace: str | None = None) -> Record:
        """The record of a request.

        Raises:
            RequestNotFoundError: no record.
        """
        namespace = await self.store.find(request_id, namespace)
        raw = await self.store.commands.execute("HGETALL", self.store.keys(namespace).record(request_id))
        if not raw:
            raise RequestNotFoundError(f"no request {request_id!r} is known")
        return read_record(request_id, namespace, dict(zip(raw[::2], raw[1::2], strict=True)))


def finish_arguments(
    base: str, attempt: Attempt, top: EventId, event_id: EventId, data: bytes, state: str, *, result: bytes,
    error: bytes, settled: bool, kept: KeptResult | None, used: str = "", ttft: int = -1,
) -> dict[str, Argument]:  # fmt: skip
    """Arguments of the ``finish`` script."""
    kept = kept or _NOT_KEPT
    return {
        "base": base, "lease": f"{attempt.lease:x}", "epoch": attempt.epoch, "expected": str(top),
        "event_id": str(event_id), "data": data, "state": state, "result": result, "error": error,
        "is_settled": int(settled), "result_key": kept.key, "result_ttl": kept.ttl, "kept_result": kept.value,
        "channel": kept.inbox, "used": used, "ttft": ttft,
    }  # fmt: skip


def release_call(
    keys: Keys, request_id: str, lease: int, epoch: int, *, retries: int, not_before: float, message: bytes,
    front: bool, counts: bool,
) -> tuple[list[str], dict[str, Argument]]:  # fmt: skip
    """Keys and arguments of the ``release`` script."""
    named: dict[str, Argument] = {
        "base": keys.base, "id": request_id, "lease": f"{lease:x}", "epoch": epoch, "retry_number": retries,
        "wait": left(not_before), "new_message": message, "to_front": int(front), "uncounted": int(not counts),
    }  # fmt: skip
    return [keys.record(request_id), keys.stream(request_id)], named


def cancelled(reason: str = "cancelled", message: str = "the request was cancelled") -> End:
    """The end of a cancelled request."""
    return End(State.CANCELLED, reason, error=ErrorInfo.of(RequestCancelledError(message)))
