"""The span of what an engine does for a request."""

from __future__ import annotations

from collections.abc import AsyncIterator

from dynamo_tasks.observe.tracing import OFF, Span, span
from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = ["traced"]


def traced(source: AsyncIterator[TokenDelta], model: str, engine: str) -> AsyncIterator[TokenDelta]:
    """Record a ``dynamo.generate`` span over the deltas; gives the source itself where none is recorded."""
    known = {"gen_ai.operation.name": "text_completion", "gen_ai.provider.name": engine}
    made = span("dynamo.generate", attributes={**known, "gen_ai.request.model": model})
    return source if made is OFF else _watched(source, made)


async def _watched(source: AsyncIterator[TokenDelta], made: Span) -> AsyncIterator[TokenDelta]:
    reasons: list[str] = []
    with made:
        async for delta in source:
            if delta.finish_reason is not None:
                reasons.append(delta.finish_reason)
            if delta.usage is not None:
                made.set("gen_ai.usage.input_tokens", delta.usage["prompt_tokens"])
                made.set("gen_ai.usage.output_tokens", delta.usage["completion_tokens"])
                made.set("gen_ai.usage.cache_read.input_tokens", delta.usage.get("cached_tokens"))
                made.set("gen_ai.response.finish_reasons", reasons)
            yield delta
