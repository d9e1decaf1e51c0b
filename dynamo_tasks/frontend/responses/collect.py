"""A response as one object."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dynamo_tasks.frontend.openai.collect import Collector
from dynamo_tasks.frontend.openai.render import Render, as_delta, values_of
from dynamo_tasks.frontend.responses.echo import Echo, Outcome, response_object, usage_of
from dynamo_tasks.frontend.responses.output import Output
from dynamo_tasks.protocol.events import End, Event, Kind
from dynamo_tasks.protocol.tokens import decode_deltas

__all__ = ["ResponseCollector", "collected"]


class ResponseCollector(Collector):
    """Makes the ``response`` object of a stream that has ended.

    Args:
        render: As it is stored.
    """

    def __init__(self, render: Render):
        super().__init__()
        self._render = render
        self._echo = Echo.decode(render.extra)
        self._output = Output(render.id, logprobs=self._echo.logprobs)

    @property
    def items(self) -> list[dict[str, Any]]:
        """Items that are done."""
        return self._output.items

    @property
    def reasoning(self) -> int:
        """Tokens in which the model was reasoning."""
        return self._output.reasoning

    def take(self, event: Event) -> None:
        """Take tokens, or values of an endpoint that yields something else."""
        tokens = event.kind == Kind.TOKENS
        for delta in decode_deltas(event.data) if tokens else map(as_delta, values_of(event)):
            self.usage = delta.usage or self.usage
            self._output.take(delta)
        self.tokens = self._output.tokens

    def body(self, end: End) -> dict[str, Any]:
        """The whole response."""
        outcome = self.finish(end)
        usage = usage_of(self.usage, self.tokens, self.reasoning)
        return response_object(self._render, self._echo, outcome, self.items, usage)

    def finish(self, end: End) -> Outcome:
        """Close what is open; says where the response stands."""
        for value in end.values or ():
            self._output.take(as_delta(value))
        self.usage = end.usage or self.usage
        outcome = Outcome.of(end)
        self._output.close("completed" if outcome.status == "completed" else "incomplete")
        return outcome


def collected(render: Render, events: Iterable[Event]) -> tuple[dict[str, Any], bool]:
    """The response that some events make, and whether they have its end; may be called in a thread."""
    collector = ResponseCollector(render)
    for event in events:
        if event.kind == Kind.END:
            return collector.body(End.decode_in_parts(event.data)), True
        if event.kind != Kind.CLAIM:
            collector.take(event)
    return {}, False
