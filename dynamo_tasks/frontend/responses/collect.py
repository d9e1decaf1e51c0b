"""A response as one object."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dynamo_tasks.frontend.openai.collect import Collector
from dynamo_tasks.frontend.openai.render import Render, as_delta, values_of
from dynamo_tasks.frontend.responses.echo import Echo, Made, Outcome, usage_of
from dynamo_tasks.frontend.responses.output_items import OutputItems
from dynamo_tasks.protocol.events import End, Event, Kind
from dynamo_tasks.protocol.tokens import decode_deltas

__all__ = ["ResponseCollector", "collected"]


class ResponseCollector(Collector):
    """Makes the ``response`` object of a stream that has ended.

    Args:
        render: As it is stored.
        on_made: Told of the response once it has ended, on the loop.
    """

    def __init__(self, render: Render, on_made: Callable[[Made], None] | None = None):
        super().__init__()
        self._render = render
        self._echo = Echo.decode(render.extra)
        self._output = OutputItems(render.id, logprobs=self._echo.logprobs)
        self._on_made = on_made
        self.made: Made | None = None
        """The response, once it has ended."""

    def take(self, event: Event) -> None:
        """Take tokens, or values of an endpoint that yields something else."""
        tokens = event.kind == Kind.TOKENS
        for delta in decode_deltas(event.data) if tokens else map(as_delta, values_of(event)):
            self.usage = delta.usage or self.usage
            self._output.take(delta)
        self.tokens = self._output.tokens

    def body(self, end: End) -> dict[str, Any]:
        """The whole response."""
        for value in end.values or ():
            self._output.take(as_delta(value))
        self.usage = end.usage or self.usage
        outcome, output = Outcome.of(end), self._output
        output.close("completed" if outcome.status == "completed" else "incomplete")
        self.made = Made(outcome, output.items, usage_of(self.usage, output.tokens, output.reasoning))
        return self.made.shown(self._render, self._echo)

    def finished(self) -> None:
        """Tell of the response."""
        if self._on_made is not None and self.made is not None:
            self._on_made(self.made)


def collected(render: Render, events: Iterable[Event]) -> Made | None:
    """The response that some events make, ``None`` without their end; may be called in a thread."""
    collector = ResponseCollector(render)
    for event in events:
        if event.kind == Kind.END:
            collector.body(End.decode_in_parts(event.data))
        elif event.kind != Kind.CLAIM:
            collector.take(event)
    return collector.made
