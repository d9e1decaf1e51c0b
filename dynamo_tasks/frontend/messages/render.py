"""The stream of a message: Anthropic's events, from the events of a request's stream.

One log event becomes one or several SSE events. The last of them has its id; those before have ``<epoch>-<seq>.<k>``,
so that a client that was cut off in between goes on exactly where it was. Which block is open follows from all that
came before: the stream is rendered from its start, and what the client has is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from dynamo_tasks.errors import DynamoError, InvalidEventIdError
from dynamo_tasks.frontend.messages.content import Content, Shown, message_id, usage_shown
from dynamo_tasks.frontend.messages.errors import error_of
from dynamo_tasks.frontend.openai.render import Render, as_delta, attempt_comment, one_line, values_of
from dynamo_tasks.frontend.openai.values import FROM_START, Position
from dynamo_tasks.protocol.events import ZERO, Claim, End, Event, EventId, Kind
from dynamo_tasks.protocol.tokens import TokenDelta, decode_deltas

__all__ = ["PING", "MessageRenderer"]

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
"""What a silent stream gets, and every stream at its start."""

_json = msgspec.json.Encoder().encode
_TOKENS = str(Kind.TOKENS)
_TEXT = (
    b'id: %d-%d\nevent: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    b'"delta":{"type":"text_delta","text":%b}}\n\n'
)


class MessageRenderer:
    """Renders the stream of one message; see :class:`~dynamo_tasks.frontend.openai.render.Renderer`."""

    def __init__(self, render: Render, known: Position = FROM_START):
        """Begin.

        Args:
            render: As it was stored.
            known: What the client has already of the stream; the events from the start on are given all the same.
        """
        self._render = render
        self._shown = Shown.decode(render.extra)
        self._content = Content(render.id, self._shown)
        self._after, self._skip = known.after, known.skip
        self._started = False
        self.tokens = 0
        self.ended = False
        self.error: DynamoError | None = None
        self.usage: dict[str, int] | None = None

    def opening(self) -> bytes:
        """Nothing comes before the claim, which is the start of the message."""
        return b""

    def render(self, events: Sequence[Event]) -> bytes:
        """The SSE bytes of some events; may be empty."""
        out: list[bytes] = []
        for event in events:
            out.append(self._text(event) if event[1] == _TOKENS else self._one(event))
        return one_line(b"".join(out))

    def close(self, error: DynamoError | None) -> bytes:
        """The error, if there is one: a stream that broke off has no ``message_stop``."""
        return b"" if error is None else one_line(self._error(error))

    def _text(self, event: Event) -> bytes:
        """Tokens; most often they are more text for the block that is open."""
        index = self._content.text_index
        deltas = decode_deltas(event.data)
        if (
            index < 0
            or self._after is not None
            or len(deltas) != 1
            or (delta := deltas[0]).finish_reason is not None
            or delta.message is not None
            or delta.index
            or not delta.text
        ):
            return self._numbered(event.id, self._taken(deltas))
        self.tokens += len(delta.token_ids)
        return _TEXT % (*event.id, index, _json(delta.text))

    def _one(self, event: Event) -> bytes:
        if event.kind == Kind.CLAIM:
            claim = Claim.decode(event.data)
            if claim.previous == ZERO:
                return self._numbered(event.id, self._start(), PING)
            return b"" if self._is_known(event.id) else attempt_comment(claim)
        if event.kind == Kind.END:
            return self._numbered(event.id, self._end(End.decode(event.data)))
        return self._numbered(event.id, self._taken(list(map(as_delta, values_of(event)))))

    def _is_known(self, event: EventId) -> bool:
        return self._after is not None and event <= self._after

    def _numbered(self, event: EventId, steps: list[dict[str, Any]], more: bytes = b"") -> bytes:
        """The SSE events of one log event, without those that the client has."""
        if self._is_known(event):
            return b""
        skip = 0
        if self._after is not None:
            skip, self._after = self._skip, None  # the first event that the client has not, or not all of
            if skip and skip >= len(steps):
                raise InvalidEventIdError(
                    f"event id {event}.{skip} is unknown: {event} has {len(steps)} parts"
                )
        out = []
        for number, step in enumerate(steps[skip:], skip + 1):
            sub = b"" if number == len(steps) else b".%d" % number
            out.append(b"id: %d-%d%b\n%b" % (*event, sub, _event(step)))
        return b"".join(out) + more

    def _start(self) -> list[dict[str, Any]]:
        self._started = True
        message: dict[str, Any] = {
            "id": message_id(self._render.id), "type": "message", "role": "assistant", "model": self._render.model,
            "content": [], "stop_reason": None, "stop_sequence": None,
            "usage": usage_shown(None, self._shown.input_tokens),
        }  # fmt: skip
        return [{"type": "message_start", "message": message}]

    def _taken(self, deltas: list[TokenDelta]) -> list[dict[str, Any]]:
        steps: list[dict[str, Any]] = []
        for delta in deltas:
            self.tokens += len(delta.token_ids)
            self.usage = delta.usage or self.usage
            steps += self._content.take(delta)
        return steps

    def _end(self, end: End) -> list[dict[str, Any]]:
        self.ended = True
        self.usage = end.usage or self.usage
        self.error = end.failure()
        if self.error is not None:
            return [error_of(self.error, self._render.id)]
        steps = [] if self._started else self._start()
        for value in end.values or ():  # an endpoint that returns its text in one piece
            steps += self._content.take(as_delta(value))
        steps += self._content.end()
        stop = self._content.stop(end.finish_reason)
        delta = {"stop_reason": stop.reason, "stop_sequence": stop.sequence}
        usage = usage_shown(self.usage, self._shown.input_tokens, self.tokens)
        return [*steps, {"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]

    def _error(self, error: DynamoError) -> bytes:
        return _event(error_of(error, self._render.id))


def _event(step: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (step["type"].encode(), _json(step))
