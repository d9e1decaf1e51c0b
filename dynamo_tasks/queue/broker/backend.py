"""Celery's Redis result backend, which waits for a lost server instead of losing the result.

Celery drops a result (and settles the task all the same) where its server is away at the wrong moment, after
twenty attempts with a sleep in between, which would stop the event loop. Here a result is written until it is
written; the loop goes on, since the tracer's greenlet is suspended meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from datetime import datetime
from functools import cached_property
from typing import Any

from celery.backends.redis import RedisBackend, SentinelBackend
from celery.result import ResultSet
from celery.states import SUCCESS
from kombu.exceptions import DecodeError
from kombu.utils.encoding import bytes_to_str

from dynamo_tasks.config.host.tls import TlsOptions
from dynamo_tasks.errors import ServerUnavailableError
from dynamo_tasks.observe.log import event
from dynamo_tasks.observe.throttle import LogThrottle
from dynamo_tasks.queue.broker.envelope import HEADER, INBOX, persisted
from dynamo_tasks.queue.broker.message import read_plain
from dynamo_tasks.queue.broker.outages import while_away
from dynamo_tasks.queue.broker.replies import Replies, is_inbox
from dynamo_tasks.queue.broker.transport import submitted_as
from dynamo_tasks.queue.greenlets import await_, may_await
from dynamo_tasks.queue.sockets import yielding
from dynamo_tasks.store.ledger.ledger import KeptResult
from dynamo_tasks.store.ledger.sync import once_more
from dynamo_tasks.store.redis.connection import Link
from dynamo_tasks.store.redis.parsing import Parser
from dynamo_tasks.store.redis.refusals import refusal
from dynamo_tasks.store.redis.wire import pack

__all__ = [
    "ANSWER_TIMEOUT", "CONNECT_TIMEOUT", "KINDS", "OPERATION_TIMEOUT", "WRITTEN", "ResultBackend",
    "SentinelResultBackend", "ours",
]  # fmt: skip

CONNECT_TIMEOUT = 2.0
"""Seconds that a synchronous operation on a worker's loop may wait for a server, maybe a far one: below a lease."""
ANSWER_TIMEOUT = 5.0
"""Seconds that a synchronous operation of a client may wait for Redis."""
OPERATION_TIMEOUT = 10.0
"""Seconds in which an operation of a client is tried again."""
_CELERYS_TIMEOUT = 120.0
"""Celery's default of ``redis_socket_timeout``."""
_RETRY = 0.2
_MOST_KEPT = 16 << 20
"""Characters of a result that may go with the end of its request: a larger one would hold up the streams of others."""
WRITTEN = "dynamo_result_is_written"
"""Attribute of a request whose result was written together with its end."""
_inbox: ContextVar[bytes | str] = ContextVar("dynamo_inbox", default="")
"""A further channel on which the result that is being written is published; '' = none."""


class ResultBackend(RedisBackend):  # type: ignore[misc]
    """The backend of a dynamo-tasks application.

    Args:
        waits: Whether this is a worker process, which must not lose a result, and whose loop must not stop.
        prefix: What all keys start with; Celery's option for that would add an underscore to some.
        transport_options: In place of the application's ``result_backend_transport_options``.
        tls: In place of the application's ``redis_backend_use_ssl``.
        link: The worker's own connection to the same server. Results are written on it, so that the loop goes on
            meanwhile; those of threads are not.
    """

    ResultConsumer = Replies

    def __init__(
        self,
        *args: Any,
        waits: bool = False,
        prefix: str = "",
        transport_options: dict[str, Any] | None = None,
        tls: TlsOptions | None = None,
        link: Callable[[], Link] | None = None,
        **kwargs: Any,
    ):
        self._prefix = prefix
        self._link = link
        self.writes_on_loop = link is not None
        """``True`` where results are written on the worker's own connection, without holding up its loop."""
        super().__init__(*args, **kwargs)
        if tls is not None:
            self.connparams |= {**tls.settings(), "connection_class": self.connection_class_ssl}
        if transport_options is not None:
            self._transport_options = transport_options
        self.waits = waits
        self.connparams["parser_class"] = Parser
        if waits:
            self.connparams["connection_class"] = yielding(
                self.connparams.get("connection_class") or self._connection_class()
            )
        self._limit(CONNECT_TIMEOUT if waits else ANSWER_TIMEOUT)

    def _add_driver_info(self) -> None:
        """Celery's reads a file of redis-py's for each thread's backend, and asks twice more for each connection."""
        self.connparams["driver_info"] = None

    def _limit(self, seconds: float) -> None:
        """Let no operation take longer, in a client unless its settings say so."""
        given = self.connparams
        for name, stock in (("socket_timeout", _CELERYS_TIMEOUT), ("socket_connect_timeout", None)):
            if self.waits or given.get(name) in (stock, None):
                given[name] = seconds
        if given.get("path"):
            given.pop("socket_connect_timeout")
        # What did not come in time will not come any sooner when it is asked again.
        given.setdefault("retry", once_more())

    def _connection_class(self) -> type:
        """The connection class that redis-py takes where the settings name none."""
        kind: type = self.redis.Connection
        return kind

    def _add_global_keyprefix(self) -> None:
        if not self._prefix:
            super()._add_global_keyprefix()
            return
        for name in ("task_keyprefix", "group_keyprefix", "chord_keyprefix"):
            setattr(self, name, self._prefix + getattr(self, name))

    @property
    def retry_policy(self) -> dict[str, Any]:
        """kombu's retry policy for one operation: in a worker none, since its sleep would stop the loop."""
        policy: dict[str, Any] = super().retry_policy
        return {**policy, "max_retries": 0} if self.waits else {"timeout": OPERATION_TIMEOUT, **policy}

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Celery callback before a publish: subscribe to the result, unless it is an endpoint's.

        A caller that waits for it subscribes then. Here it would keep ``.delay()`` from reporting that Redis is
        away, for twenty attempts and as many seconds.
        """
        if submitted_as.get() is None:
            super().on_task_call(producer, task_id)

    def _store_result(
        self, task_id: Any, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Write an outcome.

        Celery looks first, and keeps a success that is there. An endpoint's success is the ledger's one outcome: it
        is written without a look.
        """
        if getattr(request, WRITTEN, False):
            return result
        with self._announced_to_caller(request):
            if state != SUCCESS or not self._is_endpoint(request):
                return super()._store_result(task_id, result, state, traceback, request=request, **kwargs)
            self._set_with_state(
                self.get_key_for_task(task_id), self._success(task_id, result, request), state
            )
            return result

    @contextmanager
    def _announced_to_caller(self, request: Any) -> Iterator[None]:
        token = _inbox.set(self._inbox_of(request))
        try:
            yield
        finally:
            _inbox.reset(token)

    def _inbox_of(self, request: Any) -> bytes | str:
        """The channel of the client that made a call; '' where it waits for none."""
        header = request.get(HEADER) if hasattr(request, "get") else None
        name = persisted(header).get(INBOX)
        return self.get_key_for_task(name) if is_inbox(name) else ""

    def decode(self, payload: Any) -> Any:
        """Celery's; what only looks like one of kombu's marks is no reason to refuse a result."""
        try:
            return super().decode(payload)
        except DecodeError:
            if self.serializer == "json":
                with suppress(ValueError):
                    return read_plain(payload)
            raise

    def wait_no_more(self, result: Any) -> None:
        """Forget the waiters of a result: it is known from elsewhere."""
        self.remove_pending_result(result)
        self.result_consumer.forget(result.id)

    def iter_native(self, result: Any, no_ack: bool = True, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        """Celery's: the members of a set as they end.

        Celery has a backend for each thread, and hands a result to that of the thread which made it. So this
        one takes over those that it does not know; it is notified of them, or another one that waits for them.
        """
        taken = list(_of_other_threads(result, self))
        self._take_over(taken)
        announced = set()
        try:
            for task_id, meta in super().iter_native(result, no_ack=no_ack, **kwargs):
                announced.add(task_id)
                yield task_id, meta
            for one in result.results:
                if one.id not in announced:
                    yield one.id, one._get_task_meta()
        finally:
            for one in taken:
                if one._cache is not None:
                    one.backend.wait_no_more(one)

    def _take_over(self, results: list[Any]) -> None:
        with while_away(self):
            self.add_pending_results(results)
            keys = [self.get_key_for_task(one.id) for one in results]
            for found in filter(None, self.client.mget(keys) if keys else ()):
                self.result_consumer.on_state_change(self.decode_result(found), None)

    def _success(self, task_id: Any, result: Any, request: Any) -> str | bytes:
        if self._extended:
            meta = self._get_result_meta(result=result, state=SUCCESS, traceback=None, request=request)
        else:
            meta = self._plain_meta(result, request)
        meta["task_id"] = bytes_to_str(task_id)
        encoded: str | bytes = self.encode(meta)
        return encoded

    def _plain_meta(self, result: Any, request: Any) -> dict[str, Any]:
        """As Celery makes it of a success without ``result_extended``, which it looks for at each result."""
        done = datetime.now(self.app.timezone).isoformat()
        meta = {
            "status": SUCCESS, "result": result, "traceback": None, "children": self.current_task_children(request),
            "date_done": done,
        }  # fmt: skip
        for name, attribute in (("group_id", "group"), ("parent_id", "parent_id")):
            if value := getattr(request, attribute, None):
                meta[name] = value
        return meta

    @cached_property
    def _extended(self) -> bool:
        return bool(self.app.conf.result_extended)

    def kept_result(self, task_id: str, result: Any, request: Any) -> KeptResult | None:
        """Encode an endpoint's success for the script that ends the request; ``None``: Celery writes it.

        Celery does so without a connection of the worker's own, and for a large result. A caller that writes
        it sets the attribute :data:`WRITTEN` of the request.
        """
        if self._link is None:
            return None
        value = self._success(task_id, self.encode_result(result, SUCCESS), request)
        if len(value) > _MOST_KEPT:
            return None
        ttl = int(self.expires or 0)
        return KeptResult(self.get_key_for_task(task_id), ttl, value, self._inbox_of(request))

    def _set(self, key: str, value: str, expires: float | None = None) -> None:
        if self._link is None or not may_await():
            super()._set(key, value, expires)
            if _inbox.get():
                self.client.publish(_inbox.get(), value)
            return
        ttl = self.expires if expires is None else expires
        await_(_write(self._link(), key, value, ttl, _inbox.get()))

    def _is_endpoint(self, request: Any) -> bool:
        task = self.app.tasks.get(getattr(request, "task", None) or "")
        return bool(getattr(task, "runs_on_loop", False))

    def _ensure_retryable(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        on_loop = not may_await() and threading.current_thread() is threading.main_thread()
        if not self.waits or on_loop:
            return super()._ensure_retryable(func, *args, **kwargs)
        for unused in ("fallback_exc", "fallback_msg", "max_retries"):
            kwargs.pop(unused, None)
        failures, run = LogThrottle(), _call
        while True:
            try:
                return run(func, *args, **kwargs)
            except self.connection_errors as exc:
                if failures.due():
                    event(
                        "store.reconnect_failed", connection="results", server=self.as_uri(), error=str(exc)
                    )
                self._sleep(_RETRY)
                # Redis is away, maybe without a word: from here on the loop does not wait for it.
                run = _call_aside

    def on_chord_part_return(self, request: Any, state: Any, result: Any, **kwargs: Any) -> Any:
        """Celery callback after a part of a chord: counted once, and asked again where Redis was away."""
        return self._ensure_retryable(super().on_chord_part_return, request, state, result, **kwargs)

    def _sleep(self, amount: float) -> None:
        if may_await():
            await_(asyncio.sleep(amount))
        else:
            time.sleep(amount)


class SentinelResultBackend(ResultBackend, SentinelBackend):  # type: ignore[misc]
    """The same on the master that Sentinels name."""

    def _connection_class(self) -> type:
        kind: type = self.redis.sentinel.SentinelManagedConnection
        return kind


def _of_other_threads(result: Any, backend: ResultBackend) -> Iterator[Any]:
    """Open members of a set, and of the sets in it, that another thread's backend waits for."""
    for one in result.results:
        if isinstance(one, ResultSet):
            yield from _of_other_threads(one, backend)
        elif one._cache is None and isinstance(one.backend, ResultBackend) and one.backend is not backend:
            yield one


async def _write(link: Link, key: str, value: str, ttl: float | None, inbox: bytes | str = "") -> None:
    """Store a result and publish it to those who wait, as Celery does, on a connection of ours."""
    keep = ("SETEX", key, int(ttl), value) if ttl else ("SET", key, value)
    commands = [pack(keep), pack(("PUBLISH", key, value))]
    if inbox:
        commands.append(pack(("PUBLISH", inbox, value)))
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            for reply in await (await link.wire()).transaction(commands):
                if isinstance(reply, Exception):
                    raise refusal(str(reply))
    except TimeoutError:
        raise ServerUnavailableError(f"no answer from {link.address}", retry_after=1.0) from None


def _call(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return func(*args, **kwargs)


def _call_aside(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call in a thread, if that is not one already."""
    if not may_await():
        return func(*args, **kwargs)
    return await_(asyncio.to_thread(copy_context().run, func, *args, **kwargs))


KINDS = {RedisBackend: ResultBackend, SentinelBackend: SentinelResultBackend}


def ours(backend: Any, *, waits: bool, **more: Any) -> Any:
    """Return our kind of a backend that Celery made from the settings; others stay as they are.

    Args:
        backend: What Celery made.
        waits: See :class:`ResultBackend`.
        **more: The same.
    """
    kind = KINDS.get(type(backend))
    return backend if kind is None else kind(app=backend.app, url=backend.url, waits=waits, **more)
