"""Celery messages of endpoint calls: built without Celery, and converted into ledger records.

A message is what kombu's Redis transport keeps in its lists: a JSON object with ``body``, ``headers``
(Celery protocol 2) and ``properties``. Calls of endpoints carry the header ``dynamo``, which says that
a record was written together with the message, and holds the options of the call.
"""

from __future__ import annotations

import base64
import hashlib
import os
import reprlib
import socket
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.observe import tracing
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.versions import PROTOCOL
from dynamo_tasks.store.ledger.submission import ABANDON_AFTER, NewRequest

__all__ = [
    "EMBED",
    "HEADER",
    "OWN_HEADERS",
    "CallOptions",
    "build",
    "build_envelope",
    "check_call",
    "digest",
    "new_request",
    "persisted",
    "release_of",
    "request_of",
    "short_repr",
    "submit_span",
]

HEADER = "dynamo"
_LONGEST_ID = 255
_json = msgspec.json.Encoder().encode
_repr = reprlib.Repr()
_repr.maxdict, _repr.maxlist, _repr.maxtuple, _repr.maxstring, _repr.maxother = 16, 6, 6, 64, 64
_ORIGIN = f"gen{os.getpid()}@{socket.gethostname()}"
_HEADERS: dict[str, Any] = {
    "lang": "py", "task": "", "id": "", "root_id": "", "parent_id": None, "group": None, "group_index": None,
    "shadow": None, "eta": None, "expires": None, "retries": 0, "timelimit": [None, None], "argsrepr": "(…)",
    "kwargsrepr": "{}", "origin": _ORIGIN, "ignore_result": True, "replaced_task_nesting": 0, "stamped_headers": None,
    "stamps": {}, HEADER: {"v": PROTOCOL},
}  # fmt: skip
OWN_HEADERS = _HEADERS.keys()
"""Headers that every message has."""
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class CallOptions(msgspec.Struct, omit_defaults=True):
    """Options of one call; JSON in the ``dynamo`` header.

    Attributes:
        v: Protocol version of the writer.
        rd: Channel of the client process that reads from the start.
        dl: Deadline, Unix seconds.
        bg: Runs on without a reader.
        ab: Seconds after which a request that nobody reads any more is cancelled.
        rt: Retention of its stream, seconds.
        ik: Idempotency key.
        tn: Tenant.
        tw: Its share of a component that is not enough for all.
        mq: Limit of the queue.
        nm: The caller has named the id: it stands for this payload alone.
        rel: ``[lease hex, epoch]`` of the attempt that this message is a retry of.
        re: Inbox to which the result is published as well: see :mod:`dynamo_tasks.queue.broker.replies`.
    """

    v: int = PROTOCOL
    rd: str = ""
    dl: float = 0.0
    bg: bool = False
    ab: float = ABANDON_AFTER
    rt: float | None = None
    ik: str = ""
    tn: str = ""
    tw: Annotated[float, msgspec.Meta(ge=0.001, le=1000)] = 1.0
    mq: int = 0
    nm: bool = False
    rel: tuple[str, int] | None = None
    re: str = ""

    def header(self) -> dict[str, Any]:
        """The value of the header."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return {"v": PROTOCOL} | fields


def persisted(header: Any) -> dict[str, Any]:
    """Return the part of the header that a message keeps once the ledger has it."""
    kept: dict[str, Any] = {"v": PROTOCOL}
    if isinstance(header, dict) and header.get("re"):
        kept["re"] = header["re"]
    return kept


def submit_span(
    request_id: str, endpoint: EndpointId, queue: str, headers: Mapping[str, str]
) -> tracing.Span:
    """The span of a submit; its ``carry`` makes the headers of the message."""
    span = tracing.span("dynamo.submit", headers)
    if span is not tracing.OFF:
        span.set("dynamo.request_id", request_id)
        span.set("dynamo.endpoint", str(endpoint))
        span.set("messaging.destination.name", queue)
        for name, value in tracing.messaging("send", "submit", request_id).items():
            span.set(name, value)
    return span


def digest(endpoint: EndpointId, body: bytes) -> str:
    """Hash endpoint and body: calls with one idempotency key are the same if these are."""
    return hashlib.blake2b(f"{endpoint} ".encode() + body, digest_size=16).hexdigest()


def build(
    endpoint: EndpointId,
    request_id: str,
    payload: Any,
    *,
    queue: str,
    priority: int = 0,
    ignore_result: bool = True,
    more: Mapping[str, str] | None = None,
) -> tuple[bytes, bytes]:
    """The message of a call as a frontend makes it, and its encoded body. No Celery object is involved.

    Args:
        endpoint: Whom to call.
        request_id: Celery task id.
        payload: The one argument; JSON.
        queue: Name of the queue.
        priority: 0..9, 0 first.
        ignore_result: Keep nothing in Celery's result backend.
        more: Further headers, e.g. of a trace.
    """
    body = _json([[payload], {}, EMBED])
    message = build_envelope(
        endpoint,
        request_id,
        body,
        queue=queue,
        priority=priority,
        ignore_result=ignore_result,
        more=more or {},
    )
    return message, body


def build_envelope(
    endpoint: EndpointId,
    request_id: str,
    body: bytes,
    *,
    queue: str,
    priority: int = 0,
    ignore_result: bool = True,
    reply_to: str = "",
    more: Mapping[str, Any],
) -> bytes:
    """The message around an encoded body; see :func:`build`."""
    headers = {
        **_HEADERS, "task": str(endpoint), "id": request_id, "root_id": request_id,
        "ignore_result": ignore_result, **more,
    }  # fmt: skip
    message = {
        "body": body.decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "correlation_id": request_id, "reply_to": reply_to, "delivery_mode": 2, "priority": priority,
            "delivery_info": {"exchange": "", "routing_key": queue}, "body_encoding": None,
            "delivery_tag": request_id,
        },
    }  # fmt: skip
    return _json(message)


def short_repr(args: Any) -> str:
    """The arguments of a call, as Flower and ``inspect`` show them: a few of a long list, the ends of a long text.

    Celery's own walks through them item by item, which costs more than all else of a publish where a prompt comes
    as token ids.
    """
    return _repr.repr(tuple(args or ()))


def check_call(task_id: Any, options: Mapping[str, Any]) -> None:
    """Refuse what cannot be the id of a request (it stands in keys, and between blanks in orders), or its format.

    Raises:
        InvalidRequestError: says what it must be.
    """
    serializer = options.get("serializer") or "json"
    if serializer != "json":
        raise InvalidRequestError(f"serializer must be json: workers read no {serializer} of an endpoint's")
    if task_id is None:
        return
    is_text = isinstance(task_id, str) and task_id.isprintable() and " " not in task_id
    if not is_text or len(task_id) > _LONGEST_ID:
        raise InvalidRequestError(
            f"task_id must be a text of at most {_LONGEST_ID} characters without blanks, not {_repr.repr(task_id)}"
        )


def _timestamp(value: Any) -> float:
    return datetime.fromisoformat(value).timestamp() if value else 0.0


def request_of(
    message: dict[str, Any], queue_key: str, priority: int, dumps: Callable[[Any], str]
) -> NewRequest:
    """The ledger record of a message that Celery publishes.

    Args:
        message: As kombu has prepared it; its ETA is moved into the ledger.
        queue_key: Redis key of the queue.
        priority: kombu's priority step.
        dumps: kombu's JSON encoder.
    """
    headers = message["headers"]
    options = msgspec.convert(headers[HEADER], CallOptions)
    not_before, headers["eta"] = _timestamp(headers.get("eta")), None
    headers[HEADER] = persisted(headers[HEADER])
    return new_request(
        EndpointId.parse(headers["task"]), headers["id"], dumps(message).encode(), _plain_body(message), options,
        queue=queue_key, priority=priority, not_before=not_before, expires=_timestamp(headers.get("expires")),
        ignore_result=bool(headers.get("ignore_result")),
    )  # fmt: skip


def _plain_body(message: dict[str, Any]) -> bytes:
    """The body without what a transport puts around it: the same call has the same digest, whichever way it comes."""
    body = str(message["body"]).encode()
    return base64.b64decode(body) if message["properties"].get("body_encoding") == "base64" else body


def new_request(
    endpoint: EndpointId, request_id: str, message: bytes, body: bytes, options: CallOptions, **more: Any
) -> NewRequest:
    """The ledger record of a call.

    Args:
        endpoint: Whom to call.
        request_id: Celery task id.
        message: As a worker gets it.
        body: What is in the message, for the idempotency key.
        options: Of the call.
        **more: What else :class:`NewRequest` has.
    """
    return NewRequest(
        id=request_id, endpoint=endpoint, message=message, deadline=options.dl, reader=options.rd, tenant=options.tn,
        weight=options.tw, background=options.bg, abandon_after=options.ab, retention=options.rt,
        max_queue=options.mq, idempotency_key=options.ik,
        digest=digest(endpoint, body) if options.ik or options.nm else "", **more,
    )  # fmt: skip


def release_of(message: dict[str, Any], dumps: Callable[[Any], str]) -> dict[str, Any]:
    """Arguments of :meth:`SyncLedger.release` for a retry message."""
    headers = message["headers"]
    lease, epoch = headers[HEADER]["rel"]
    not_before, headers["eta"] = _timestamp(headers.get("eta")), None
    headers[HEADER] = persisted(headers[HEADER])
    return {
        "namespace": EndpointId.parse(headers["task"]).namespace, "request_id": headers["id"],
        "lease": int(lease, 16), "epoch": int(epoch), "retries": int(headers["retries"]),
        "not_before": not_before, "message": dumps(message).encode(),
    }  # fmt: skip
