"""Answers that are not streamed: the whole stream, put together."""

from __future__ import annotations

from typing import Any

from starlette.types import Receive, Scope, Send

from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.errors import EndpointError
from dynamo_tasks.frontend.gateway import EventStream
from dynamo_tasks.frontend.http.errors import check_end, encode_parts, json_bytes
from dynamo_tasks.frontend.http_call import ClientWatch, RequestMeter
from dynamo_tasks.frontend.openai.logprobs import logprobs_of
from dynamo_tasks.frontend.openai.render import Render, as_delta, usage_of, values_of
from dynamo_tasks.observe import log
from dynamo_tasks.protocol.events import End, Event, Kind
from dynamo_tasks.protocol.messages import MessageDelta
from dynamo_tasks.protocol.tokens import CompletionAggregate, TokenDelta, decode_deltas

__all__ = ["CollectedResponse", "Collector", "CompletionCollector", "ValueCollector"]


class Collector:
    """Takes all events of a stream and makes the body of the answer."""

    def __init__(self) -> None:
        self.tokens = 0
        """Tokens so far."""
        self.usage: dict[str, int] | None = None
        """The request's token counts, once known."""

    def take(self, event: Event) -> None:
        """Take an event that is neither claim nor end."""
        raise NotImplementedError

    def body(self, end: End) -> dict[str, Any]:
        """The answer's JSON object; may be called in a thread."""
        raise NotImplementedError

    def finished(self) -> None:
        """Do what is left once :meth:`body` was called; on the loop."""

    def size(self, end: End) -> int:
        """About how many tokens or numbers are in the answer."""
        return self.tokens


class CompletionCollector(Collector):
    """``chat.completion`` or ``text_completion``."""

    def __init__(self, render: Render):
        super().__init__()
        self._render = render
        self._whole = CompletionAggregate()
        self._logprobs: dict[int, list[Any]] = {}

    def take(self, event: Event) -> None:
        """Take tokens, or values of an endpoint that yields something else."""
        tokens = event.kind == Kind.TOKENS
        for delta in decode_deltas(event.data) if tokens else map(as_delta, values_of(event)):
            self._add(delta)

    def _add(self, delta: TokenDelta) -> None:
        self.tokens += len(delta.token_ids)
        self._whole.add(delta)
        if delta.logprobs is not None:
            self._logprobs.setdefault(delta.index, []).extend(delta.logprobs)

    def body(self, end: End) -> dict[str, Any]:
        """The whole completion."""
        for value in end.values or ():  # an endpoint that returns its text in one piece
            self._add(as_delta(value))
        self.usage = end.usage or self._whole.usage
        result = self._whole.result()
        rows = result.get("choices") or [result | {"index": 0}]
        render = self._render
        return {
            "id": render.completion_id,
            "object": "chat.completion" if render.api == "chat" else "text_completion",
            "created": render.created,
            "model": render.model,
            "choices": [self._choice(row, end) for row in rows],
            "usage": usage_of(self.usage, self.tokens),
            **({"service_tier": render.tier} if render.tier else {}),
        }

    def _choice(self, row: dict[str, Any], end: End) -> dict[str, Any]:
        logprobs = self._logprobs.get(row["index"])
        rest = {
            "logprobs": None if logprobs is None else logprobs_of(self._render.api, logprobs),
            "finish_reason": row["finish_reason"] or end.finish_reason or "stop",
        }
        if self._render.api == "chat":
            parsed = self._whole.message(row["index"]) or MessageDelta(row["text"])
            return {"index": row["index"], "message": parsed.as_message(), **rest}
        return {"index": row["index"], "text": row["text"], **rest}


class ValueCollector(Collector):
    """The values of an endpoint, and its return value, as one list."""

    def __init__(self) -> None:
        super().__init__()
        self._values: list[Any] = []

    def take(self, event: Event) -> None:
        """Take values."""
        self._values += values_of(event)

    def values(self, end: End) -> list[Any]:
        """All of them."""
        self.usage = end.usage
        return self._values + (end.values or [])


class CollectedResponse:
    """Waits for the end of a request and answers with one JSON object.

    Attributes:
        started: Whether the answer is being sent.
        status: How it went; 499 when the client left before.
    """

    def __init__(
        self, stream: EventStream, collector: Collector, *, api: str, meter: RequestMeter | None = None
    ):
        """Make the response.

        Args:
            stream: Of the request; closed here.
            collector: Makes the answer.
            api: Its name in logs.
            meter: Told when the first token arrives.
        """
        self._stream = stream
        self._collector = collector
        self._api = api
        self._meter = meter
        self.started = False
        self.status = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer.

        Raises:
            DynamoError: The request failed.
        """
        end: End | None = None
        try:
            async with ClientWatch(receive) as client:
                end = await self._collect()
        finally:
            self._stream.close()
        if client.gone or end is None:
            self.status = 499
            log.event("http.disconnected", request_id=self._stream.request_id, api=self._api)
            return
        check_end(end)
        raw = await offload(self._collector.size(end), self._encoded, end)
        self._collector.finished()
        response = json_bytes(raw, request_id=self._stream.request_id)
        self.started = True
        await response(scope, receive, send)

    def _encoded(self, end: End) -> bytes:
        return encode_parts(self._collector.body(end))

    def counts(self) -> tuple[int, dict[str, int] | None]:
        """Tokens collected, and the request's token counts where known."""
        return self._collector.tokens, self._collector.usage

    async def _collect(self) -> End:
        collector = self._collector
        while events := await self._stream.next():
            for event in events:
                if event.kind == Kind.END:
                    return await offload(len(event.data), End.decode_in_parts, event.data)
                if event.kind != Kind.CLAIM:
                    collector.take(event)
            if self._meter is not None:
                self._meter.delivered(collector.tokens)
        raise EndpointError("the stream ended without an end event")
