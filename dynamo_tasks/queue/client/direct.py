"""The short way of a call into the ledger, for the common case: ``.delay(payload)`` without options.

Celery and kombu build a message in some twenty steps, each of which looks for options that are hardly ever given.
Here the same message is built in one, and goes to the same script over the same connections. Whatever somebody may
have asked for (links, an ETA, routes, signals, a task that calls another one, …) makes a call go Celery's own way, and
so does code that overrides or wraps the steps of that way. So does a connection that is not there, or fails: Celery
retries and reports as its settings say. A call that was sent both ways is one request, since it has one id.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from types import FunctionType
from typing import Any, NamedTuple

from celery import Celery, Task, signals
from kombu import Producer
from kombu.exceptions import OperationalError
from kombu.utils.json import dumps

from dynamo_tasks.queue.broker.backend import ResultBackend
from dynamo_tasks.queue.broker.envelope import (
    EMBED,
    HEADER,
    INBOX,
    OWN_HEADERS,
    CallHeader,
    build_envelope,
    digest,
    persisted,
)
from dynamo_tasks.store.ledger.submission import NewRequest
from dynamo_tasks.store.ledger.sync import NoAnswer

__all__ = ["CachedChannel", "publish", "settings_are_plain", "submit"]

_SIGNALS = (signals.before_task_publish, signals.after_task_publish, signals.task_sent)
_SERIALIZER = "json"
_STEPS = ((Task, "apply_async"), (Celery, "send_task"), (Producer, "publish"))
"""Steps of Celery's way that instrumentation wraps, and applications override."""


def publish(
    task: Any,
    args: Any,
    result: Any,
    options: Mapping[str, Any],
    call: CallHeader,
    headers: Mapping[str, Any],
    *,
    is_new: bool,
) -> str | None:
    """Queue a call, if it is of the common kind.

    Args:
        task: The endpoint's task.
        args: Its arguments.
        result: Handle on the call; the request gets its id.
        options: Celery's, of ``apply_async``.
        call: Ours.
        headers: Further ones of the message.
        is_new: Whether nobody can have used the id before.

    Returns:
        The id of the request that stands for the call; ``None``: publish it Celery's way, also where it may have been
        queued, since an id is queued once.

    Raises:
        QueueFullError, DeadlineUnreachableError, IdempotencyConflictError: as ``Ledger.submit``.
        kombu.exceptions.OperationalError: Redis does not answer.
    """
    app = task.app
    if options.keys() - {"argsrepr"} or not isinstance(args or (), list | tuple):
        return None
    if not (_are_ours_alone(headers) and _is_plain(app, task)):
        return None
    try:
        body = dumps([list(args or ()), {}, EMBED]).encode()
    except (TypeError, ValueError):
        return None  # Celery says what is wrong with it
    backend = task.backend if is_new and not task.ignore_result else None
    replies = backend.result_consumer if isinstance(backend, ResultBackend) else None
    inbox, known = replies.expect(result) if replies else None, None
    try:
        more = {**headers, "argsrepr": options["argsrepr"]}
        if inbox:
            more[HEADER] = persisted({INBOX: inbox})
        call.options.ignore_result = bool(task.ignore_result)
        message = build_envelope(
            task.endpoint, result.id, body, call.options, queue=task.endpoint.queue, reply_to=app.thread_oid, more=more
        )  # fmt: skip
        known = _submitted(task, result.id, message, body, call, is_new)
    finally:
        if replies and known != result.id:
            replies.forget(result.id)
    return known


class CachedChannel(NamedTuple):
    """A channel of a connection of Celery's that is there, kept for the next call, and the process it belongs to."""

    pid: int
    connection: Any
    channel: Any

    @classmethod
    def of(cls, producer: Any) -> CachedChannel | None:
        """A producer's; ``None``: Celery has to connect, with its retries and its errors."""
        connection = producer.connection
        return cls(os.getpid(), connection, producer.channel) if connection.connected else None

    @property
    def is_open(self) -> bool:
        """``True`` while it can be used: in the same process, and connected."""
        return self.pid == os.getpid() and bool(self.connection.connected) and not self.channel.closed


def _submitted(task: Any, task_id: str, *call: Any) -> str | None:
    ways: deque[CachedChannel] = task.app.ways
    way = _kept(ways)
    if way is not None:
        known = _over(way, task, task_id, *call)
    else:
        with task.app.producer_pool.acquire(block=True) as producer:
            way = CachedChannel.of(producer)
            known = _over(way, task, task_id, *call) if way is not None else None
    if known is not None and way is not None and not ways:
        ways.append(way)
    return known


def _kept(ways: deque[CachedChannel]) -> CachedChannel | None:
    """The way that is kept, where no other thread has it."""
    with suppress(IndexError):
        way = ways.pop()
        return way if way.is_open else None
    return None


def _over(
    way: CachedChannel, task: Any, task_id: str, message: bytes, body: bytes, call: CallHeader, is_new: bool
) -> str | None:
    connection, channel = way.connection, way.channel
    try:
        new = NewRequest(
            id=task_id, endpoint=task.endpoint, queue=f"{channel.global_keyprefix}{task.endpoint.queue}",
            message=message, options=call.options,
            digest=digest(task.endpoint, body, call.options, named=call.named), fresh=is_new,
        )  # fmt: skip
        return submit(channel, new)
    except NoAnswer as exc:
        # Not Celery's way: its retries would take as long again, each.
        raise OperationalError(str(exc)) from exc
    except (*connection.connection_errors, *connection.channel_errors):
        return None


def submit(channel: Any, new: NewRequest) -> str:
    """Hand a request to the ledger, over a connection of Celery's."""
    return str(channel.submit(new))


def _are_ours_alone(headers: Mapping[str, Any]) -> bool:
    """Return whether headers are texts, as those of traces, and none that a message has anyway."""
    return set(map(type, headers.values())) <= {str} and not headers.keys() & OWN_HEADERS


def _is_plain(app: Any, task: Any) -> bool:
    """Return whether neither the application, nor the task, nor its caller asks anything of Celery."""
    if any(signal.receivers for signal in _SIGNALS) or app.current_worker_task is not None:
        return False
    if not (task.ignore_result or isinstance(app.backend, ResultBackend)):
        return False
    if not (task.is_sent_plainly and app.sends_as_celery and all(_is_original(*step) for step in _STEPS)):
        return False
    asked = {name for name, value in task._get_exec_options().items() if value is not None}
    return (
        asked <= {"serializer"}
        and task.serializer == _SERIALIZER
        and app.amqp.plain
        and not app.conf.task_send_sent_event
    )


def _is_original(owner: type, name: str) -> bool:
    """Return whether a method is the one that its class was written with: nobody has wrapped it."""
    found = owner.__dict__.get(name)
    return (
        type(found) is FunctionType and found.__code__.co_filename == sys.modules[owner.__module__].__file__
    )


def settings_are_plain(conf: Any) -> bool:
    """Return whether an application's settings leave messages at Celery's defaults."""
    return (
        conf.task_protocol == 2
        and not (conf.task_routes or conf.task_queues or conf.task_compression)
        and conf.task_default_delivery_mode in (2, "persistent")
        and not conf.broker_transport_options.get("body_encoding")
    )
