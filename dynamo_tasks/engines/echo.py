"""The default engine: streams its prompt back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from dynamo_tasks.engines.args import EngineArgs, Milliseconds
from dynamo_tasks.engines.base import EmbeddingResult, Engine, EngineStats, usage
from dynamo_tasks.engines.embedding import embed_all
from dynamo_tasks.engines.text.output import UNSAMPLED, ChoiceOutput, echoed
from dynamo_tasks.engines.text.request import GenerateRequest
from dynamo_tasks.errors import EngineDeadError
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = ["LAST_USER_MESSAGE", "EchoArgs", "EchoEngine"]

LAST_USER_MESSAGE = (
    "{% set asked = messages | selectattr('role', 'equalto', 'user') | list %}"
    "{{ (asked or messages)[-1].content }}"
)
"""Chat template whose prompt is what the user said last, so that chat echoes that."""

_CONTEXT_LENGTH = 1 << 17
"""Tokens (bytes) of prompt + answer; without any limit, one request could fill Redis."""
_BURST = 8
"""Tokens per delta when nothing delays them: each delta costs a turn of the loop."""


class EchoArgs(EngineArgs, kw_only=True, frozen=True):
    """Arguments of the echo engine.

    Attributes:
        token_delay_ms: Time per token.
    """

    token_delay_ms: Milliseconds = 0.0


class EchoEngine(Engine):
    """Answers with the prompt; ends with ``stop`` at its end, or with ``length`` at ``max_tokens``."""

    args_type = EchoArgs
    knows_card = True
    features = UNSAMPLED

    def __init__(self, args: EchoArgs | None = None) -> None:
        """Make the engine."""
        args = args or EchoArgs()
        card = ModelCard(
            name=args.name("echo"), chat_template=LAST_USER_MESSAGE,
            max_model_len=args.max_model_len or _CONTEXT_LENGTH,
        )  # fmt: skip
        super().__init__("echo", card, args.max_num_seqs)
        self._delay = args.token_delay_ms / 1000
        self._slots = asyncio.Semaphore(args.max_num_seqs)
        self._running = self._waiting = self._tokens = 0
        self._life = 0

    async def start(self) -> None:
        """Nothing is loaded."""
        if not self._started:
            event("engine.start", engine=self.name, model=self.card.name)
        await super().start()

    async def stop(self) -> None:
        """Stop; what runs ends with ``EngineDeadError`` at its next token."""
        if self._started:
            self._life += 1
            event("engine.stop", engine=self.name, model=self.card.name)
        await super().stop()

    def stats(self) -> EngineStats:
        """Report the load; a request counts as one sequence whatever its ``n``."""
        return EngineStats(running=self._running, waiting=self._waiting, tokens=self._tokens)

    async def embed(self, inputs: list[str | list[int]], dimensions: int | None = None) -> EmbeddingResult:
        """Hash embeddings."""
        self.check_health()
        return await embed_all(inputs, dimensions, self.tokenizer, self.card.max_model_len)

    async def _generate(self, request: GenerateRequest) -> AsyncGenerator[TokenDelta, None]:
        prompt = request.prompt_token_ids
        limit = min(self._max_tokens(request, len(prompt)), len(prompt))
        choices = [ChoiceOutput(request, index, self.tokenizer, limit) for index in range(request.n)]
        life = self._life
        if asked := await echoed(request, self.tokenizer):
            for choice in choices:
                if choice.index not in request.output_token_ids:
                    yield TokenDelta(asked, [], choice.index)
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        try:
            open_choices = choices
            while open_choices:
                for choice in open_choices:
                    delta = self._next(choice, prompt)
                    if delta.finish_reason and all(other.finish_reason for other in choices):
                        delta.usage = usage(len(prompt), sum(other.count for other in choices), 0)
                    yield delta
                open_choices = [choice for choice in open_choices if choice.finish_reason is None]
                if open_choices:
                    await asyncio.sleep(self._delay)
                if life != self._life:
                    raise EngineDeadError("engine 'echo' was stopped")
        finally:
            self._running -= 1
            self._slots.release()

    def _next(self, choice: ChoiceOutput, prompt: list[int]) -> TokenDelta:
        """The next tokens of a choice; the one with the prompt's last token ends it."""
        before = choice.count
        if choice.finish_reason is None:
            delta = choice.push(prompt[before : before + (1 if self._delay else _BURST)])
        else:  # an interrupted attempt had got to the end
            delta = choice.ended()
        self._tokens += choice.count - before
        if delta.finish_reason == "length" and choice.count == len(prompt):
            delta.finish_reason = "stop"
        return delta
