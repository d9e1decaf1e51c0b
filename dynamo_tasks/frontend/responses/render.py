"""Server-sent events of a response.

A stream is rendered from its first event on, wherever a client goes on: numbers and ids are counted on the way, and
what it has is left out. So any frontend sends the same bytes. An event of the stream becomes none, one or several; the
last one has its id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from dynamo_tasks.errors import DynamoError
from dynamo_tasks.frontend.openai.render import Render, as_delta, attempt_comment, one_line, values_of
from dynamo_tasks.frontend.openai.values import FROM_START, Position
from dynamo_tasks.frontend.responses.echo import Echo, Made, Outcome, response_object, usage_of
from dynamo_tasks.frontend.responses.output_items import OutputItems
from dynamo_tasks.protocol.events import ZERO, Claim, End, Event, Kind
from dynamo_tasks.protocol.tokens import decode_deltas

__all__ = ["ResponseRenderer", "last_number"]

_json = msgspec.json.Encoder().encode
_OPENING = {True: ("queued", "response.queued"), False: ("in_progress", "response.in_progress")}
"""Status before the first event, and the event that tells of it, by whether it runs in the background."""


class ResponseRenderer:
    """Renders a response.

    Args:
        render: As it is stored.
        known: What the client has of the stream.
        starting_after: Last ``sequence_number`` that it has.
        on_made: Told of the response once it has ended.
    """

    def __init__(
        self,
        render: Render,
        known: Position = FROM_START,
        *,
        starting_after: int = -1,
        on_made: Callable[[Made], None] | None = None,
    ):
        self._render = render
        self._echo = Echo.decode(render.extra)
        self._after = known.after or ZERO
        self._known = starting_after
        self._made: list[bytes] = []
        self._number = 0
        self._output = OutputItems(render.id, logprobs=self._echo.logprobs, tell=self._tell)
        self._opened = False
        self.tokens = 0
        self.ended = False
        self.error: DynamoError | None = None
        self.usage: dict[str, int] | None = None
        self._on_made = on_made

    def opening(self) -> bytes:
        """The SSE bytes that come before any event of the stream."""
        status, second = _OPENING[self._echo.background]
        self._opened = True
        self._tell("response.created", {"response": self._object(Outcome(status))})
        self._tell(second, {"response": self._object(Outcome(status))})
        return b"" if self._after != ZERO else self._taken()

    def render(self, events: Sequence[Event]) -> bytes:
        """The SSE bytes of some events; may be empty."""
        start = b"" if self._opened else self.opening()
        return one_line(start + b"".join([self._one(event) for event in events]))

    def close(self, error: DynamoError | None) -> bytes:
        """The event ``error``, if the stream can't be read any further."""
        if error is None:
            return b""
        self._known = -1
        self._tell("error", {"code": error.code, "message": error.message, "param": error.param})
        return one_line(self._taken())

    @property
    def last(self) -> int:
        """The number of the last event so far."""
        return self._number - 1

    def _one(self, event: Event) -> bytes:
        comment = self._apply(event)
        made, self._made = self._made, []
        if event.id <= self._after:
            return b""
        if made:
            made[-1] = b"id: %d-%d\n%b" % (*event.id, made[-1])
        return comment + b"".join(made)

    def _apply(self, event: Event) -> bytes:
        if event.kind == Kind.CLAIM:
            return self._claim(Claim.decode(event.data))
        if event.kind == Kind.END:
            self._end(End.decode(event.data))
            return b""
        tokens = event.kind == Kind.TOKENS
        for delta in decode_deltas(event.data) if tokens else map(as_delta, values_of(event)):
            self.usage = delta.usage or self.usage
            self._output.take(delta)
        self.tokens = self._output.tokens
        return b""

    def _claim(self, claim: Claim) -> bytes:
        if claim.previous != ZERO:
            return attempt_comment(claim)
        if self._echo.background:
            self._tell("response.in_progress", {"response": self._object(Outcome("in_progress"))})
        return b""

    def _end(self, end: End) -> None:
        for value in end.values or ():  # an endpoint that returns its text in one piece
            self._output.take(as_delta(value))
        self.ended, self.error = True, end.failure()
        self.usage = end.usage or self.usage
        outcome = Outcome.of(end)
        output = self._output
        output.close("completed" if outcome.status == "completed" else "incomplete")
        made = Made(outcome, output.items, usage_of(self.usage, output.tokens, output.reasoning))
        self._tell(f"response.{outcome.status}", {"response": made.shown(self._render, self._echo)})
        if self._on_made is not None:
            self._on_made(made)

    def _object(self, outcome: Outcome) -> dict[str, Any]:
        return response_object(self._render, self._echo, outcome, [], None)

    def _tell(self, kind: str, fields: dict[str, Any]) -> None:
        number, self._number = self._number, self._number + 1
        if number > self._known:
            data = _json({"type": kind, "sequence_number": number, **fields})
            self._made.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))

    def _taken(self) -> bytes:
        made, self._made = self._made, []
        return b"".join(made)


def last_number(render: Render, events: Sequence[Event]) -> int:
    """The number of the last event that some events of a stream make; may be called in a thread."""
    renderer = ResponseRenderer(render)
    renderer.render(events)
    return renderer.last
