"""Records of batches: what is known of one, in Redis, changed by compare-and-set alone."""

from __future__ import annotations

import uuid
from typing import Any

from msgspec import Struct, field

from dynamo_tasks.protocol.http.batches import LineError
from dynamo_tasks.store.objects import ObjectKind, StoredObject

__all__ = [
    "BATCH",
    "ENDED",
    "ENDED_BATCH",
    "KEPT",
    "OPEN_BATCH",
    "SYSTEM",
    "BatchData",
    "BatchPart",
    "BatchRecord",
    "OpenBatch",
    "new_batch_id",
    "run_id",
    "shown_batch",
]

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
"""States in which nothing happens to a batch any more."""
KEPT = 30 * 86400.0
"""Seconds for which a batch is known, from its creation."""
SYSTEM = "@system"
"""The owner of what no API key may see."""
_NAMED = uuid.UUID("7c1d6b0e-5a43-4f0c-9d4e-2f1c8a3b6e57")
_TIMES = (
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


class BatchPart(Struct, frozen=True, array_like=True):
    """Consecutive lines that have all ended, and whose results are written.

    Attributes:
        output: Name and bytes of each object with results.
        errors: The same of what went wrong.
        completed: Lines that succeeded.
        failed: The others.
        end: Where in the input file the next part begins.
        tokens: Of prompts, of these cached, of answers.
    """

    output: list[tuple[str, int]]
    errors: list[tuple[str, int]]
    completed: int
    failed: int
    end: int
    tokens: tuple[int, int, int] = (0, 0, 0)


class BatchData(Struct, frozen=True):
    """A batch.

    Attributes:
        request: The body of its creation.
        window: Seconds until it expires.
        status: As OpenAI names it.
        run: Number of its run: another one follows where one has ended without having ended the batch.
        times: When it came to a status, Unix seconds, by ``<status>_at``.
        model: That its lines ask for.
        total: Number of lines.
        completed: Lines that have succeeded so far.
        failed: Lines that have failed so far.
        parts: Those that are written, by number.
        unerased: Numbers of parts whose answers may still be in the queue's streams.
        why: What ended it early: ``expired`` or ``cancelled``.
        mistakes: In its input.
        output_file: Id of the file of results, once that is there.
        error_file: The same of what went wrong.
    """

    request: dict[str, Any]
    window: int
    status: str = "validating"
    run: int = 0
    times: dict[str, int] = field(default_factory=dict)
    model: str = ""
    total: int = 0
    completed: int = 0
    failed: int = 0
    parts: dict[int, BatchPart] = field(default_factory=dict)
    unerased: list[int] = field(default_factory=list)
    why: str = ""
    mistakes: list[LineError] = field(default_factory=list)
    output_file: str | None = None
    error_file: str | None = None


class OpenBatch(Struct, frozen=True):
    """An entry of a batch, so that it is found without its owner's key."""


BatchRecord = StoredObject[BatchData]
BATCH: ObjectKind[BatchData] = ObjectKind("batch", BatchData, most=10_000)
"""The objects in Redis."""
OPEN_BATCH: ObjectKind[OpenBatch] = ObjectKind("open-batch", OpenBatch, noun="batch", most=100_000)
"""One for each batch that has not ended; there before the batch is, and gone after its end is told."""
ENDED_BATCH: ObjectKind[OpenBatch] = ObjectKind("ended-batch", OpenBatch, noun="batch", most=10_000)
"""One for each batch that has ended, by the time of its end, so that the live page finds those of all keys."""


def new_batch_id(owner: str, idempotency_key: str) -> str:
    """The id of a batch: with an idempotency key always the same, else a fresh one."""
    named = uuid.uuid5(_NAMED, f"{owner} {idempotency_key}") if idempotency_key else uuid.uuid4()
    return f"batch_{named.hex}"


def run_id(batch_id: str, number: int) -> str:
    """The id of the request that is a run of a batch."""
    return str(uuid.uuid5(uuid.UUID(batch_id.removeprefix("batch_")), f"run {number}"))


def shown_batch(batch: BatchRecord) -> dict[str, Any]:
    """A batch as the API shows it."""
    data = batch.data
    tokens = [sum(part.tokens[i] for part in data.parts.values()) for i in range(3)]
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": data.request["endpoint"],
        "model": data.model or None,
        "errors": {"object": "list", "data": [_mistake(one) for one in data.mistakes]}
        if data.mistakes
        else None,
        "input_file_id": data.request["input_file_id"],
        "completion_window": data.request["completion_window"],
        "status": data.status,
        "output_file_id": data.output_file,
        "error_file_id": data.error_file,
        "created_at": int(batch.created),
        "expires_at": int(batch.created + data.window),
        **{name: data.times.get(name) for name in _TIMES},
        "request_counts": {"total": data.total, "completed": data.completed, "failed": data.failed},
        "usage": {
            "input_tokens": tokens[0],
            "input_tokens_details": {"cached_tokens": tokens[1]},
            "output_tokens": tokens[2],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": tokens[0] + tokens[2],
        },
        "metadata": data.request.get("metadata"),
    }


def _mistake(one: LineError) -> dict[str, Any]:
    return {"code": one.code, "message": one.message, "param": one.param, "line": one.line}
