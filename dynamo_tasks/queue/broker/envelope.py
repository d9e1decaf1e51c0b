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
from typing import Any

import msgspec

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.observe import tracing
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.options import RequestOptions
from dynamo_tasks.protocol.versions import PROTOCOL
from dynamo_tasks.store.ledger.submission import NewRequest

__all__ = [
    "EMBED",
    "HEADER",
    "INBOX",
    "OWN_HEADERS",
    "CallHeader",
    "build_envelope",
    "build_request",
    "check_call",
    "digest",
    "persisted",
    "release_of",
    "request_of",
    "short_repr",
    "submit_span",
]

HEADER = "dynamo"
INBOX = "re"
"""Field of the header that a message keeps: where its result is published as well. Queued messages have it."""
_LONGEST_ID = 255
_json = msgspec.json.Encoder().encode
_repr = reprlib.Repr()
_repr.maxdict, _repr.maxlist, _repr.maxtuple, _repr.maxstring, _repr.maxother = 16, 6, 6, 64, 64
_ORIGIN = f"gen{os.getpid()}@{socket.gethostname()}"
_HEADERS: dict[str, Any] = {
    "lang": "py", "task": "", "id": "", "root_id": "", "retries": 0, "argsrepr": "(…)", "kwargsrepr": "{}",
    "origin": _ORIGIN, "ignore_result": True, HEADER: {"v": PROTOCOL},
}  # fmt: skip
"""Of a message that is built here: what says nothing is left out, for Celery takes its absence for that."""
OWN_HEADERS = _HEADERS.keys() | {
    "parent_id", "group", "group_index", "shadow", "eta", "expires", "timelimit", "replaced_task_nesting",
    "stamped_headers", "stamps",
}  # fmt: skip
"""Headers of Celery's, which no caller may give for others."""
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class CallHeader(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The ``dynamo`` header of a call on its way to the ledger; :func:`persisted` says what a message keeps of it.

    Attributes:
        options: Of the call.
        named: The caller has named the id: it stands for this payload alone.
        release: ``[lease hex, epoch, lane]`` of the attempt that this message is a retry of.
        inbox: Where the result is published as well: see :mod:`dynamo_tasks.queue.broker.replies`.
    """

    options: RequestOptions = msgspec.field(default_factory=RequestOptions)
    named: bool = False
    release: tuple[str, int, int] | None = None
    inbox: str = msgspec.field(default="", name=INBOX)

    def encoded(self) -> dict[str, Any]:
        """The value of the header, with the protocol version of its writer."""
        return {"v": PROTOCOL, **msgspec.to_builtins(self)}


def persisted(header: Any) -> dict[str, Any]:
    """Return the part of the header that a message keeps once the ledger has it."""
    kept: dict[str, Any] = {"v": PROTOCOL}
    if isinstance(header, dict) and header.get(INBOX):
        kept[INBOX] = header[INBOX]
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


def digest(endpoint: EndpointId, body: bytes, options: RequestOptions, *, named: bool = False) -> str:
    """Hash endpoint and body of a call whose id or idempotency key stands for them; empty where neither does."""
    if not (named or options.idempotency_key):
        return ""
    return hashlib.blake2b(f"{endpoint} ".encode() + body, digest_size=16).hexdigest()


def build_request(
    endpoint: EndpointId,
    request_id: str,
    payload: Any,
    options: RequestOptions,
    *,
    queue: str,
    prefix: str,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> NewRequest:
    """A request with its message, for those that are no Celery application. No Celery object is involved.

    Args:
        endpoint: Whom to call.
        request_id: Celery task id.
        payload: The one argument; JSON.
        options: Of the request.
        queue: Name of the queue.
        prefix: Of the queue's Redis key.
        headers: Further ones, e.g. of a trace.
        **more: What else :class:`NewRequest` has.
    """
    body = _json([[payload], {}, EMBED])
    message = build_envelope(endpoint, request_id, body, options, queue=queue, more=headers or {})
    return NewRequest(
        id=request_id, endpoint=endpoint, queue=prefix + queue, message=message, options=options,
        digest=digest(endpoint, body, options), **more,
    )  # fmt: skip


def build_envelope(
    endpoint: EndpointId,
    request_id: str,
    body: bytes,
    options: RequestOptions,
    *,
    queue: str,
    reply_to: str = "",
    more: Mapping[str, Any],
) -> bytes:
    """The message around an encoded body, as kombu's transport would have made it."""
    headers = {
        **_HEADERS, "task": str(endpoint), "id": request_id, "root_id": request_id,
        "ignore_result": options.ignore_result, **more,
    }  # fmt: skip
    message = {
        "body": body.decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "correlation_id": request_id, "reply_to": reply_to, "delivery_mode": 2,
            "priority": options.priority,
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
    call = msgspec.convert(headers[HEADER], CallHeader)
    options = call.options
    options.priority, options.ignore_result = priority, bool(headers.get("ignore_result"))
    options.expires, options.not_before = _timestamp(headers.get("expires")), _timestamp(headers.get("eta"))
    # The ledger waits for its time: a worker would hold the message in its memory until then.
    headers["eta"] = None
    headers[HEADER] = persisted(headers[HEADER])
    endpoint = EndpointId.parse(headers["task"])
    return NewRequest(
        id=headers["id"], endpoint=endpoint, queue=queue_key, message=dumps(message).encode(), options=options,
        digest=digest(endpoint, _plain_body(message), options, named=call.named), fresh=not call.named,
    )  # fmt: skip


def _plain_body(message: dict[str, Any]) -> bytes:
    """The body without what a transport puts around it: the same call has the same digest, whichever way it comes."""
    body = str(message["body"]).encode()
    return base64.b64decode(body) if message["properties"].get("body_encoding") == "base64" else body


def release_of(message: dict[str, Any], dumps: Callable[[Any], str]) -> dict[str, Any]:
    """Arguments of :meth:`SyncLedger.release` for a retry message."""
    headers = message["headers"]
    lease, epoch, _ = headers[HEADER]["release"]
    not_before, headers["eta"] = _timestamp(headers.get("eta")), None
    headers[HEADER] = persisted(headers[HEADER])
    return {
        "namespace": EndpointId.parse(headers["task"]).namespace, "request_id": headers["id"],
        "lease": int(lease, 16), "epoch": int(epoch), "retries": int(headers["retries"]),
        "not_before": not_before, "message": dumps(message).encode(),
    }  # fmt: skip
