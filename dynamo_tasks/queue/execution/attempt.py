"""One attempt at one request: claim → open the stream → drive the endpoint → end.

Steps over one context object; what can come out of them is an :class:`Outcome`, which the task hands to
Celery's tracer. The ownership rules live in the scripts; here every answer of theirs has one clause.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from dynamo_tasks.errors import (
    DeadlineExceededError,
    DynamoError,
    EndpointError,
    EngineDeadError,
    FencedError,
    ProtocolError,
    ServerUnavailableError,
    StreamDivergedError,
)
from dynamo_tasks.protocol.events import IGNORED, End, ErrorInfo
from dynamo_tasks.protocol.states import TERMINAL, State
from dynamo_tasks.queue.execution.call import CallInfo, OutputCollector, encode_result, fill_context
from dynamo_tasks.queue.execution.context import RequestCommand, WorkerContext
from dynamo_tasks.queue.execution.forwarding import (
    fail_above,
    forward_request,
    leave_dead_engine,
    preempt_request,
    requeue_request,
)
from dynamo_tasks.queue.execution.outcome import Dropped, Reassigned, Revoked, Stop
from dynamo_tasks.queue.execution.preemption import Offer
from dynamo_tasks.queue.execution.refused import outcome_of_refused, unusable
from dynamo_tasks.queue.execution.retry import RetryPolicy
from dynamo_tasks.queue.execution.telemetry import AttemptTelemetry
from dynamo_tasks.queue.greenlets import Interruptible
from dynamo_tasks.sdk.context import Context, ForwardRequested, RetryRequested, enter_context
from dynamo_tasks.sdk.endpoints.handler import EndpointHandler
from dynamo_tasks.store.ledger.claim_refused import ClaimRefused
from dynamo_tasks.store.ledger.ledger import Attempt, KeptResult, cancelled
from dynamo_tasks.store.redis.containment import MALFORMED
from dynamo_tasks.store.redis.refusals import ReplyError
from dynamo_tasks.store.streams.open_stream import OpenStream

__all__ = ["Execution"]

_RETRY_CLAIM = 0.2
_UNWRITABLE = (StreamDivergedError, EndpointError, ProtocolError)
"""Reasons for which a stream died that hold for every other attempt, too."""


class Execution:
    """One attempt.

    Args:
        worker: What this process runs with.
        handler: The endpoint.
        call: Id, retry number, queue, message and headers of the request.
        payload: Its argument.

    Attributes:
        on_preempt: Called before it is released for others.
    """

    on_preempt: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, worker: WorkerContext, handler: EndpointHandler, call: CallInfo, payload: Any):
        self._worker = worker
        self._lane = worker.lane(call.id)
        call.lane = self._lane.number
        self._handler = handler
        self._call = call
        self._payload = payload
        self._output = OutputCollector(worker, self._lane.store, handler, keeps_result=call.keeps_result)
        self._telemetry = AttemptTelemetry(handler.endpoint)
        self._body: Interruptible[None] | None = None
        self._stop: Stop | None = None
        self._stop_asked = 0.0
        self._stream: OpenStream | None = None
        self._to_settle = self._only_completion = False
        self._offer: Offer | None = None
        self.context = Context(call.id, self._telemetry.name, retries=call.retries, headers=call.headers)

    async def run(self) -> Any:
        """Run the attempt; returns the endpoint's (aggregated) result.

        Raises:
            Dropped: the message is a duplicate, too late, or too early.
            Revoked: it was cancelled.
            Reassigned: it went back to its queue.
            RetryRequested: the endpoint wants a retry; the request is still RUNNING.
            Exception: whatever the endpoint raised; the request has FAILED.
        """
        try:
            attempt = await self._claim()
        except ClaimRefused as refusal:
            return await self._refused(refusal)
        except (ReplyError, *MALFORMED) as exc:
            await unusable(self._lane, self._handler.endpoint, self._call.id, exc)
        # Made only where Redis forgets the request: hardly any attempt needs it.
        attempt.message = self._call.message
        stream = self._lane.writer.open(attempt, self._stream_died, cap=self._worker.stream_cap)
        self._stream = stream
        # Nothing is awaited since the claim: others know of it, and send commands to this attempt.
        self._worker.enter(self, attempt, stream)
        fill_context(self.context, attempt, self._lane.number)
        self.context.read_while(stream.is_read)
        try:
            return await self._attempt(attempt, stream)
        finally:
            self._telemetry.span.end()

    @property
    def attempt(self) -> Attempt | None:
        """The claim, once there is one."""
        return self._stream.attempt if self._stream is not None else None

    @property
    def may_leave(self) -> bool:
        """``True`` while it may be stopped for others' sake at any moment."""
        return self._offer is not None and self._offer in self._worker.preemption.offers

    @property
    def timed_out(self) -> bool:
        """``True`` if Celery's hard time limit ended it."""
        return self._stop is not None and self._stop.reason == "time_limit"

    async def settle(self) -> None:
        """Note that Celery's completion is done: a redelivery has nothing to do, and the message may be acked."""
        if self._to_settle:
            await self._worker.settle(self._lane.ledger, self._handler.endpoint.namespace, self._call.id)

    def leave(self) -> None:
        """The job is over. The stream, which the writer keeps for a while, knows this object: no circle is left."""
        if self._stream is not None:
            self._worker.leave(self, self._stream)
            self._lane.writer.forget(self._stream)
        if self._offer is not None:
            self._worker.preemption.left(self._offer)
        self._stream = self._offer = None
        self.context.read_while(None)
        if self._only_completion:
            self._worker.leave_completion(self._call.id)

    async def fail(self, exc: BaseException) -> None:
        """End the request with an error: the endpoint's, or that its retries are used up."""
        assert self._stream is not None
        await self._end(self._stream, End(State.FAILED, "error", error=ErrorInfo.of(exc)))

    async def _claim(self) -> Attempt:
        # One nonce for all tries: a claim whose reply was lost is granted again.
        nonce = self._worker.nonce()
        while True:
            try:
                return await self._lane.ledger.claim(
                    self._handler.endpoint, self._call.id, self._worker.lease, retries=self._call.retries,
                    tracked=self._call.tracked, queue=self._call.queue,
                    message=b"" if self._call.tracked else self._call.message(), nonce=nonce,
                )  # fmt: skip
            except ServerUnavailableError:
                await asyncio.sleep(_RETRY_CLAIM)

    async def _refused(self, refusal: ClaimRefused) -> Any:
        self._telemetry.refused(self._call.id, refusal.reason)
        return await outcome_of_refused(
            self._worker, self._lane, self._handler.endpoint, self._call, refusal, self._settles
        )

    def _settles(self, only: bool) -> None:
        self._to_settle = True
        self._only_completion |= only

    async def _attempt(self, attempt: Attempt, stream: OpenStream) -> Any:
        await self._telemetry.claimed(attempt, self.context, self._lane.ledger)
        if self._worker.late is not None:
            self._telemetry.explain(self._worker.late.why(attempt.id))
        try:
            with self._deadline(attempt.deadline):
                await self._drive(stream)
            end, result = self._output.end(), self._output.result()
            encoded = encode_result(self._telemetry.name, end, result)
            kept = self._call.kept_result(result)
        except Stop as stop:
            return await self._stopped(stop, attempt, stream)
        # First what was put out: Celery's retry gives the request away, and no more is taken from us then.
        except RetryRequested:
            await self._lane.writer.written(stream)
            raise
        except ForwardRequested as wanted:
            await forward_request(self._lane.store, stream, wanted, self._call.message(), self.fail)
        # Another attempt owns it: whatever this one would still say is out of date.
        except FencedError:
            raise Dropped("FENCED") from None
        except Ignore:
            # As if it had returned None: clients that wait are notified at once. Celery calls no link of it.
            values = None if self._handler.streaming else [None]
            await self._end(
                stream, End(State.SUCCEEDED, IGNORED, values=values), kept=self._call.kept_result(None)
            )
            raise
        except EngineDeadError as exc:
            await leave_dead_engine(self._worker, self._lane, stream, exc.message)
        except Exception as exc:
            if isinstance(exc, Reject) and exc.requeue:
                await requeue_request(self._lane, stream, self._call.retries, front=False, counts=True)
            await self._failed(exc, stream)
            raise
        await self._end(stream, end, encoded, kept)
        return result

    async def _failed(self, exc: Exception, stream: OpenStream) -> None:
        try:
            RetryPolicy(self._handler.options).check(exc, self._call.retries)
        except RetryRequested:
            await self._lane.writer.written(stream)
            raise
        await self.fail(exc)

    async def _drive(self, stream: OpenStream) -> None:
        """Run the endpoint to its end, appending what it yields."""
        # It may have been stopped since its claim: then nothing of the endpoint runs.
        self._check_stop()
        if self.context.preemptible and self._handler.can_continue(self._payload):
            self._offer = self._worker.preemption.offer(self.context, stream, self._preempt)
        self._body = Interruptible(self._output.collect(stream, self._payload, self._enter))
        try:
            await self._body.task
        except asyncio.CancelledError:
            raise Stop("requeue", "the worker is going down") from None
        finally:
            self._body = None
        # An endpoint may catch what stops it, and return. Where others have the request, its result is nobody's.
        self._check_stop("abort")

    def _preempt(self) -> None:
        self.on_preempt()
        self.stop(Stop("preempt"))

    def _check_stop(self, reason: str | None = None) -> None:
        """Raise what has stopped the attempt, if anything did (for that reason)."""
        if self._stop is not None and reason in (None, self._stop.reason):
            raise self._stop

    def _enter(self) -> None:
        enter_context(self.context)
        self._telemetry.span.enter()

    @contextlib.contextmanager
    def _deadline(self, deadline: float) -> Any:
        timer = None
        if deadline:
            delay = max(0.0, deadline - time.time())
            timer = asyncio.get_running_loop().call_later(delay, self.stop, Stop("deadline"))
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    async def _stopped(self, stop: Stop, attempt: Attempt, stream: OpenStream) -> Any:
        if stop.reason == "preempt":
            return await self._preempted(stream)
        reason = str(stop) if stop.reason == "abort" else stop.reason
        asked = self._stop_asked or time.monotonic()  # 0 where the worker's end stopped it, not a command
        self._telemetry.stopped(attempt, reason, time.monotonic() - asked)
        if stop.reason == "abort":
            # The next attempt would die of the same.
            if isinstance(stream.dead, _UNWRITABLE):
                await fail_above(self._lane, attempt, stream.dead)
            if str(stop) == State.CANCELLED:
                self._to_settle = self._call.has_completion
                raise Revoked("cancelled")
            # Celery's links want the outcome: a claim is refused with it.
            if str(stop) in TERMINAL:
                return await self._ended_elsewhere()
            raise Dropped(str(stop))
        if stop.reason == "requeue":
            await requeue_request(self._lane, stream, self._call.retries, front=True, counts=False)
        if stop.reason == "cancel":
            await self._end(stream, cancelled())
            raise Revoked("cancelled")
        error = DeadlineExceededError(
            "the request ran past its deadline" if stop.reason == "deadline" else f"time limit: {stop}"
        )
        await self._end(stream, End(State.FAILED, stop.reason, error=ErrorInfo.of(error)))
        raise error from None

    async def _preempted(self, stream: OpenStream) -> Any:
        if not await preempt_request(self._worker, self._lane, stream, self._call.queue):
            return await self._ended_elsewhere()
        self._telemetry.preempted(stream.attempt)
        raise Reassigned

    async def _ended_elsewhere(self) -> Any:
        """Take the outcome of a request that another process ended (at its deadline), for Celery's completion."""
        try:
            await self._claim()
        except ClaimRefused as refusal:
            return await self._refused(refusal)
        raise Dropped("RECLAIMED")

    async def _end(
        self, stream: OpenStream, end: End, result: bytes = b"", kept: KeptResult | None = None
    ) -> None:
        """Write the end; only its winner goes on to Celery's completion."""
        # Where Celery's result goes with the end, nothing is left to be done: the request is settled by it.
        follows = self._call.has_completion and kept is None
        try:
            await stream.finish(end, result if follows else b"", settled=not follows, kept=kept)
        except _UNWRITABLE as exc:
            await fail_above(self._lane, stream.attempt, exc)
            raise Dropped(exc.code) from None
        except DynamoError as exc:
            raise Dropped(exc.code) from None
        self._to_settle = follows
        if kept is not None:
            self._call.result_is_written()
        self._telemetry.ended(stream.attempt, end)

    def stop(self, stop: Stop) -> None:
        """Stop the endpoint; callable at any time, the first reason counts."""
        if self._stop is None:
            self._stop, self._stop_asked = stop, time.monotonic()
            # It ends anyway: the choice of who makes room must not fall on it.
            if self._offer is not None:
                self._worker.preemption.withdraw(self._offer)
            self.context.stop()
            if self._body is not None:
                self._body.interrupt(stop)

    def soft_limit(self) -> None:
        """Raise Celery's ``SoftTimeLimitExceeded`` inside the endpoint."""
        if self._body is not None:
            self._body.interrupt(SoftTimeLimitExceeded())

    def on_command(self, command: RequestCommand) -> None:
        """A command that was sent to this instance."""
        if command.op == "abort":
            self.stop(Stop("abort", command.argument))

    def _stream_died(self, reason: DynamoError) -> None:
        if isinstance(reason, FencedError) and self._stop is None and self._stream is not None:
            self._telemetry.fenced(self._stream.attempt)
        self.stop(Stop("abort", reason.code))
