"""A message in one piece."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.frontend.messages.content import Content, Shown, message_id, usage_shown
from dynamo_tasks.frontend.openai.collect import Collector
from dynamo_tasks.frontend.openai.render import Render, as_delta, values_of
from dynamo_tasks.protocol.events import End, Event, Kind
from dynamo_tasks.protocol.tokens import TokenDelta, decode_deltas

__all__ = ["MessageCollector"]


class MessageCollector(Collector):
    """Makes the ``message``."""

    def __init__(self, render: Render):
        super().__init__()
        self._render = render
        self._shown = Shown.decode(render.extra)
        self._content = Content(render.id, self._shown, keep=True)

    def take(self, event: Event) -> None:
        """Take tokens, or values of an endpoint that yields something else."""
        tokens = event.kind == Kind.TOKENS
        for delta in decode_deltas(event.data) if tokens else map(as_delta, values_of(event)):
            self._add(delta)

    def _add(self, delta: TokenDelta) -> None:
        self.tokens += len(delta.token_ids)
        self.usage = delta.usage or self.usage
        self._content.take(delta)

    def body(self, end: End) -> dict[str, Any]:
        """The whole message."""
        for value in end.values or ():  # an endpoint that returns its text in one piece
            self._add(as_delta(value))
        self._content.end()
        self.usage = end.usage or self.usage
        stop = self._content.stop(end.finish_reason)
        return {
            "id": message_id(self._render.id),
            "type": "message",
            "role": "assistant",
            "model": self._render.model,
            "content": self._content.whole(),
            "stop_reason": stop.reason,
            "stop_sequence": stop.sequence,
            "usage": {
                **usage_shown(self.usage, self._shown.input_tokens, self.tokens),
                "service_tier": "standard",
            },
        }
