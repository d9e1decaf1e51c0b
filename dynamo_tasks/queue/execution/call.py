"""A call that an attempt serves: what its message asks for, what was put out so far, and the result of that."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
from celery import signals

from dynamo_tasks.errors import DynamoError, NotResumableError
from dynamo_tasks.protocol.events import ZERO, End, Kind, decode_values
from dynamo_tasks.protocol.names import SESSION_HEADER
from dynamo_tasks.protocol.plain import NOT_PLAIN, to_plain
from dynamo_tasks.protocol.states import State
from dynamo_tasks.protocol.tokens import TokenDelta, decode_deltas, is_complete
from dynamo_tasks.protocol.trace import TRACE_HEADERS
from dynamo_tasks.queue.broker.backend import WRITTEN, ResultBackend
from dynamo_tasks.queue.broker.envelope import HEADER
from dynamo_tasks.queue.execution.context import WorkerContext
from dynamo_tasks.sdk.context import Context
from dynamo_tasks.sdk.endpoints.handler import EndpointHandler
from dynamo_tasks.sdk.endpoints.payloads import not_plain
from dynamo_tasks.store.ledger.ledger import Attempt, KeptResult
from dynamo_tasks.store.redis.retry import retry_until_up
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.streams.at_rest import read_all
from dynamo_tasks.store.streams.open_stream import ENTRY_BYTES, OpenStream

__all__ = ["CallInfo", "OutputCollector", "encode_result", "fill_context", "skip", "written_values"]

_CARRIED = (*TRACE_HEADERS, SESSION_HEADER)
_HOOKS_BEHIND = ("on_success", "after_return")
_BEHIND = (signals.task_success, signals.task_postrun)


class CallInfo:
    """The facts that an execution needs of the message that it serves.

    Attributes:
        lane: Number of the lane that it came from.
    """

    lane = 1

    def __init__(self, request: Any, task: Any):
        self.id: str = request.id
        self.retries: int = request.retries or 0
        self.headers: dict[str, Any] = {n: value for n in _CARRIED if (value := request.get(n))}
        self.queue: str = (request.delivery_info or {}).get("routing_key") or ""
        self.tracked = bool(request.get(HEADER))
        links = request.callbacks or request.errbacks or request.chain or request.chord
        self.keeps_result = bool(links or request.group) or not request.ignore_result
        self._backend = task.backend
        alone = not links and not request.ignore_result and isinstance(self._backend, ResultBackend)
        self._result_alone = alone and all(map(task.leaves_alone, _HOOKS_BEHIND))
        self._request = request

    @property
    def has_completion(self) -> bool:
        """``True`` if Celery has work to do once the request has ended: a result to store, links to call."""
        return self.keeps_result

    def kept_result(self, result: Any) -> KeptResult | None:
        """Celery's result, where it is all that is to be done, so that it can be written together with the end.

        Not where an application has code that runs after it: that runs again if the worker dies before.
        """
        # All results are on the first lane: that of another one's request cannot be written with its end.
        if self.lane > 1 or not self._result_alone or any(signal.receivers for signal in _BEHIND):
            return None
        kept: KeptResult | None = self._backend.kept_result(self.id, result, self._request)
        return kept

    def result_is_written(self) -> None:
        """It was written together with the end."""
        setattr(self._request, WRITTEN, True)

    def message(self) -> bytes:
        """The message again, for the ledger."""
        request = self._request
        headers = {
            name: request.get(name)
            for name in (
                "lang", "task", "id", "root_id", "parent_id", "group", "group_index", "shadow", "expires", "retries",
                "timelimit", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting",
                "stamped_headers", "stamps", HEADER,
            )
        }  # fmt: skip
        headers |= self.headers
        embed = {name: request.get(name) for name in ("callbacks", "errbacks", "chain", "chord")}
        return msgspec.json.encode(
            {
                "body": msgspec.json.encode([request.args, request.kwargs, embed]).decode(),
                "content-encoding": "utf-8",
                "content-type": "application/json",
                "headers": headers,
                "properties": {
                    "correlation_id": self.id,
                    "reply_to": request.reply_to or "",
                    "delivery_mode": 2,
                    "priority": (request.delivery_info or {}).get("priority") or 0,
                    "delivery_info": {"exchange": "", "routing_key": self.queue},
                    "body_encoding": None,
                    "delivery_tag": self.id,
                },
            }
        )


class OutputCollector:
    """Takes every value of one request.

    Args:
        worker: Of this process; counts the tokens that are made here.
        store: Of the request's lane.
        handler: The endpoint.
        keeps_result: Whether anybody wants Celery's result.
    """

    def __init__(self, worker: WorkerContext, store: Store, handler: EndpointHandler, *, keeps_result: bool):
        self._worker = worker
        self._store = store
        self._handler = handler
        self._keeps = keeps_result
        self._aggregate = handler.aggregate()
        self._value: list[Any] | None = None
        self._finish_reason: str | None = None
        self._usage: dict[str, int] | None = None

    def take(self, value: Any) -> None:
        """Take the next value that this attempt made."""
        if type(value) is TokenDelta:
            self._worker.tokens += len(value.token_ids)
        self._add(value)

    def _add(self, value: Any) -> None:
        if type(value) is TokenDelta:
            if value.finish_reason is not None:
                self._finish_reason = value.finish_reason
            if value.usage is not None:
                self._usage = value.usage
        elif not self._handler.streaming:
            self._value = [value]
            return
        if self._keeps:
            self._aggregate.add(value)

    def end(self) -> End:
        """Make the end event of a request that has put out all."""
        at = int(time.time())
        return End(State.SUCCEEDED, self._finish_reason, at=at, usage=self._usage, values=self._value)

    def result(self) -> Any:
        """Return the result for Celery; ``None`` where nobody wants it."""
        if not self._keeps:
            return None
        return self._value[0] if self._value is not None else self._aggregate.result()

    async def collect(self, stream: OpenStream, payload: Any, enter: Callable[[], None]) -> None:
        """Run the endpoint to its end; what it yields goes into the stream.

        Args:
            stream: Of the attempt.
            payload: The endpoint's argument.
            enter: Called first, in the task that the endpoint runs in: contexts are of tasks. It is no coroutine around
                this one, which each token would pass through.

        Raises:
            Exception: whatever it raised; or that its value cannot be written.
        """
        enter()
        values = await self.rest(stream, payload)
        if values is None:
            return
        streaming, append, take = self._handler.streaming, stream.append, self.take
        async with aclosing(values) as source:  # type: ignore[type-var]
            async for value in source:
                if type(value) is not TokenDelta or not streaming:
                    value = self._plain(value)
                if streaming:
                    try:
                        append(value)
                    except NOT_PLAIN as exc:
                        raise self._not_plain(value, exc) from exc
                # After the stream: what could not be written is no part of the result either.
                take(value)
                # Redis is slower than the endpoint, which waits: what it makes is kept in memory until it is taken.
                if stream.congested:
                    await stream.room()

    def _plain(self, value: Any) -> Any:
        try:
            return to_plain(value)
        except NOT_PLAIN as exc:
            raise self._not_plain(value, exc) from exc

    def _not_plain(self, value: Any, cause: Exception) -> DynamoError:
        if isinstance(cause, DynamoError):
            return cause
        return not_plain(self._handler.endpoint.label, value, cause, streams=self._handler.streaming)

    async def rest(self, stream: OpenStream, payload: Any) -> AsyncIterator[Any] | None:
        """Run the endpoint from where the stream ends; ``None`` if an earlier attempt has written all of it.

        Raises:
            NotResumableError: an earlier attempt has put something out, and the endpoint cannot go on from there.
        """
        if stream.attempt.previous == ZERO:
            return self._handler.run(payload, [])
        store = self._store
        written, size = await retry_until_up(store.commands, lambda: written_values(store, stream.attempt))
        stream.count_earlier(size)
        policy = self._handler.policy
        if written and policy not in ("continue", "replay"):
            raise NotResumableError(
                f"{self._handler.endpoint} had streamed {len(written)} values when its attempt ended, "
                f"and its policy is {policy!r}; declare continue or replay"
            )
        for value in written:
            self._add(value)  # another attempt has made it
        if policy == "replay":
            return skip(self._handler.run(payload, []), len(written))
        return None if is_complete(payload, written) else self._handler.run(payload, written)


def fill_context(context: Context, attempt: Attempt, lane: int) -> None:
    """Let the context of a request know what the ledger said when it was claimed, and on which lane it lives."""
    context.lane = lane
    context.attempt, context.deadline = attempt.number, attempt.deadline
    context.tenant, context.weight = attempt.tenant, attempt.weight
    context.preemptible = attempt.preemptible
    context.claim = attempt.lease, attempt.epoch


def encode_result(endpoint: str, end: End, result: Any) -> bytes:
    """The result that the record keeps, as JSON; empty without one.

    Args:
        endpoint: Its address, for the error.
        end: How the request will end; it must be writable, too.
        result: The value, aggregate or list of values, plain; ``None`` where nobody wants it.

    Raises:
        EndpointError: one of them cannot be written: half of a surrogate pair, a number of more than 64 bits.
    """
    try:
        end.encode()
        return msgspec.json.encode(result) if result is not None else b""
    except NOT_PLAIN as exc:
        value = end.values[0] if end.values else result
        raise not_plain(endpoint, value, exc, streams=False) from exc


async def written_values(store: Store, attempt: Attempt) -> tuple[list[Any], int]:
    """Values that earlier attempts wrote, and the bytes that they take in the stream."""
    out: list[Any] = []
    size = 0
    for entry in await read_all(store, attempt.namespace, attempt.id):
        size += len(entry.data) + ENTRY_BYTES
        if entry.kind == Kind.TOKENS:
            out += decode_deltas(entry.data)
        elif entry.kind == Kind.VALUES:
            out += decode_values(entry.data)
    return out, size


async def skip(values: AsyncIterator[Any], count: int) -> AsyncIterator[Any]:
    """All but the first ``count`` values."""
    async with aclosing(values) as source:  # type: ignore[type-var]
        async for value in source:
            if count > 0:
                count -= 1
            else:
                yield value
