"""An engine that plays back answers: those that a real model wrote, and some that were written by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from dynamo_tasks.engines.args import EngineArgs
from dynamo_tasks.engines.base import Engine, EngineStats, usage
from dynamo_tasks.engines.text.output import ChoiceOutput
from dynamo_tasks.engines.text.request import GenerateRequest
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.protocol.tokens import TokenDelta
from tests.support.answers import END, ids_for, recordings

__all__ = ["ANSWERS", "RecordedEngine"]

ANSWERS = {
    "[plain]": "It is 12 °C in Köln. 🙂",
    "[thought]": "<think>\nThe user greets me. A short answer will do.\n</think>\n\nHello! 🙂",
    "[call]": (
        "<think>\nI need the weather in Köln.\n</think>\n\n<tool_call>\n"
        '{"name": "get_weather", "arguments": {"city": "Köln", "unit": "celsius"}}\n</tool_call>'
    ),
    "[calls]": (
        "<think>\nTwo cities, two calls.\n</think>\n\nI look it up.\n<tool_call>\n"
        '{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>\n<tool_call>\n'
        '{"name": "get_time", "arguments": {"zone": "Europe/Berlin", "short": true}}\n</tool_call>'
    ),
}
"""Written by hand in the format of Qwen3: reasoning between tags, calls as Hermes writes them."""


class RecordedEngine(Engine):
    """Gives one token after another of the answer whose key is in the prompt, and ends as it ended.

    A key is one of :data:`ANSWERS`, or the name of a recording in brackets, such as ``[hermes/call]``.
    """

    features = frozenset({"skip_special_tokens", "structured_outputs"})

    def __init__(self, args: EngineArgs) -> None:
        card = ModelCard(name=args.name("recorded"), tokenizer=args.model or "bytes")
        super().__init__("recorded", card, args.max_num_seqs)

    def stats(self) -> EngineStats:
        return EngineStats()

    async def _generate(self, request: GenerateRequest) -> AsyncGenerator[TokenDelta, None]:
        ids, ends, reason = self._answer(self.tokenizer.decode(request.prompt_token_ids))
        choice = ChoiceOutput(request, 0, self.tokenizer, request.max_tokens or len(ids) + 1, ends)
        for token in ids[choice.count :]:
            delta = choice.push([token])
            if delta.finish_reason is not None:
                delta.usage = usage(len(request.prompt_token_ids), choice.count, 0)
            yield delta
            if delta.finish_reason is not None:
                return
            await asyncio.sleep(0)
        last = choice.end(reason)
        last.usage = usage(len(request.prompt_token_ids), choice.count, 0)
        yield last

    def _answer(self, prompt: str) -> tuple[list[int], tuple[int, ...], str]:
        """The ids, those that end the text, and how it ends where none of these comes."""
        for key, answer in ANSWERS.items():
            if key in prompt:
                return self.tokenizer.encode(answer, add_special_tokens=False), (), "stop"
        recording = next(one for name, one in recordings().items() if f"[{name}]" in prompt)
        return ids_for(recording, self.tokenizer), (END,), recording.finish_reason
