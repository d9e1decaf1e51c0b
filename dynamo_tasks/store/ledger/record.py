"""A request as the ledger knows it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from dynamo_tasks.errors import ProtocolError
from dynamo_tasks.protocol.events import UNREADABLE, ErrorInfo, EventId
from dynamo_tasks.protocol.states import State

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
    """Read the hash of a record; the fields are listed in :mod:`dynamo_tasks.store.ledger.ledger`.

    Raises:
        ProtocolError: a field is not what it should be.
    """
    try:
        return _read(request_id, namespace, raw)
    except UNREADABLE as exc:
        raise ProtocolError(f"the record of request {request_id} cannot be read: {exc}") from exc


def _read(request_id: str, namespace: str, raw: dict[bytes, bytes]) -> Record:
    def text(name: bytes) -> str:
        return raw.get(name, b"").decode()

    def seconds(name: bytes) -> float | None:
        return int(raw[name]) / 1000 if raw.get(name) else None

    return Record(
        id=request_id,
        namespace=namespace,
        state=State(text(b"st")),
        endpoint=text(b"en"),
        created=seconds(b"cr") or 0.0,
        started=seconds(b"stt"),
        finished=seconds(b"fin"),
        attempts=int(raw.get(b"att", 0)),
        retries=int(raw.get(b"ret", 0)),
        epoch=int(raw.get(b"ep", 0)),
        owner=int(text(b"own"), 16) if raw.get(b"own") else None,
        readers=text(b"rd").split(),
        background=text(b"bg") == "1",
        settled=text(b"set") == "1",
        ignore_result=text(b"ig") == "1",
        owner_key=text(b"ok"),
        render=raw.get(b"rnd", b""),
        error=msgspec.json.decode(raw[b"err"], type=ErrorInfo) if raw.get(b"err") else None,
        end=EventId.parse(text(b"end")) if raw.get(b"end") else None,
        finish_reason=text(b"fr") or None,
        usage=_usage(text(b"us")),
        purged=text(b"pur") == "1",
    )


def _usage(text: str) -> dict[str, int] | None:
    if not text:
        return None
    names = ("prompt_tokens", "completion_tokens", "cached_tokens")
    return dict(zip(names, map(int, text.split()), strict=False))
