"""A request as the ledger knows it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from dynamo_tasks.errors import ProtocolError
from dynamo_tasks.protocol.events import UNREADABLE, ErrorInfo, EventId
from dynamo_tasks.protocol.states import State
from dynamo_tasks.store.ledger.fields import Field

__all__ = ["Record", "read_record"]


@dataclass(kw_only=True)
class Record:
    """A request as the ledger knows it. Times are Unix seconds."""

    id: str
    namespace: str
    state: State
    endpoint: str
    created: float
    started: float | None
    finished: float | None
    attempts: int
    retries: int
    epoch: int
    owner: int | None
    readers: list[str]
    background: bool
    preemptible: bool
    preemptions: int
    settled: bool
    ignore_result: bool
    owner_key: str
    render: bytes
    error: ErrorInfo | None
    end: EventId | None
    finish_reason: str | None
    usage: dict[str, int] | None
    purged: bool


def read_record(request_id: str, namespace: str, raw: dict[bytes, bytes]) -> Record:
    """Read the hash of a record.

    Raises:
        ProtocolError: a field is not what it should be.
    """
    try:
        return _read(request_id, namespace, raw)
    except UNREADABLE as exc:
        raise ProtocolError(f"the record of request {request_id} cannot be read: {exc}") from exc


def _read(request_id: str, namespace: str, raw: dict[bytes, bytes]) -> Record:
    def value(field: Field) -> bytes:
        return raw.get(field.encode(), b"")

    def text(field: Field) -> str:
        return value(field).decode()

    def seconds(field: Field) -> float | None:
        return int(value(field)) / 1000 if value(field) else None

    def flag(field: Field) -> bool:
        return value(field) == b"1"

    return Record(
        id=request_id,
        namespace=namespace,
        state=State(text(Field.STATE)),
        endpoint=text(Field.ENDPOINT),
        created=seconds(Field.CREATED) or 0.0,
        started=seconds(Field.STARTED),
        finished=seconds(Field.FINISHED),
        attempts=int(value(Field.ATTEMPTS) or 0),
        retries=int(value(Field.RETRIES) or 0),
        epoch=int(value(Field.EPOCH) or 0),
        owner=int(text(Field.OWNER), 16) if value(Field.OWNER) else None,
        readers=text(Field.READERS).split(),
        background=flag(Field.BACKGROUND),
        preemptible=flag(Field.PREEMPTIBLE),
        preemptions=int(value(Field.PREEMPTIONS) or 0),
        settled=flag(Field.SETTLED),
        ignore_result=flag(Field.IGNORE_RESULT),
        owner_key=text(Field.OWNER_KEY),
        render=value(Field.RENDER),
        error=msgspec.json.decode(value(Field.ERROR), type=ErrorInfo) if value(Field.ERROR) else None,
        end=EventId.parse(text(Field.END_ID)) if value(Field.END_ID) else None,
        finish_reason=text(Field.FINISH_REASON) or None,
        usage=_usage(text(Field.USAGE)),
        purged=flag(Field.PURGED),
    )


def _usage(text: str) -> dict[str, int] | None:
    if not text:
        return None
    names = ("prompt_tokens", "completion_tokens", "cached_tokens")
    return dict(zip(names, map(int, text.split()), strict=False))
