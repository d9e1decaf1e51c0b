"""One choice of a request on its way through vLLM: what was emitted before, what is new, how it ended."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from dynamo_tasks.engines.base import usage
from dynamo_tasks.engines.text.output import ChoiceOutput
from dynamo_tasks.engines.text.request import GenerateRequest
from dynamo_tasks.engines.text.tokenizer import Tokenizer
from dynamo_tasks.engines.vllm.params import ModelLimits, is_replayed, sampling_arguments
from dynamo_tasks.errors import EngineError, NotResumableError
from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = ["ChoiceRequest", "known_before", "usage_of"]

_ENDS = {"length": "length", "stop": "stop", "repetition": "stop"}


class ChoiceRequest:
    """A choice.

    vLLM gets it as a request of its own with one choice, so that each can go on from where it was.

    Attributes:
        output: Makes text of ids, and knows when the answer is over.
        prompt: The ids that vLLM is given.
        arguments: Those of its ``SamplingParams``.
        cached_tokens: How many ids of the prompt the prefix cache had.
    """

    def __init__(
        self,
        request: GenerateRequest,
        index: int,
        *,
        tokenizer: Tokenizer,
        limits: ModelLimits,
        max_tokens: int,
        end_ids: Collection[int],
    ) -> None:
        """Prepare a choice.

        Args:
            request: It was checked.
            index: Which choice.
            tokenizer: Of the model.
            limits: Of the model.
            max_tokens: Most tokens of the answer, those that were emitted included.
            end_ids: The model's end-of-text tokens.
        """
        ends = () if request.ignore_eos else end_ids
        self.output = ChoiceOutput(request, index, tokenizer, max_tokens, ends)
        self.arguments = sampling_arguments(request, limits, index)
        self.cached_tokens = 0
        self._tokenizer = tokenizer
        emitted = request.output_token_ids.get(index, [])
        self._offset = self._begin(request, emitted)
        self._expected: list[int] = []
        if is_replayed(self.arguments):
            self._expected = list(emitted)
            emitted = []
        self._prompt_size = len(request.prompt_token_ids)
        self.prompt = [*request.prompt_token_ids, *emitted]
        self.arguments["max_tokens"] = max_tokens - len(emitted)
        self.arguments["min_tokens"] = max(0, request.min_tokens - len(emitted))

    def _begin(self, request: GenerateRequest, emitted: list[int]) -> int:
        """Characters in front of the first new token, where log probabilities show that."""
        if request.logprobs is None:
            return 0
        return sum(len(self._text(token)) for token in emitted)

    @property
    def finished(self) -> bool:
        """``True`` once the answer is complete."""
        return self.output.finish_reason is not None

    @property
    def compares(self) -> bool:
        """``True`` while the next ids were emitted before: they are compared and left out."""
        return bool(self._expected)

    def take(self, result: Any) -> TokenDelta | None:
        """Take what vLLM gives; ``None`` where nothing of it is new.

        Raises:
            EngineError: vLLM gave it up.
            NotResumableError: computed again, the answer is another one than that which was emitted.
        """
        piece = result.outputs[0]
        ids, logprobs = list(piece.token_ids), piece.logprobs
        if result.num_cached_tokens is not None:
            self.cached_tokens = max(self.cached_tokens, min(result.num_cached_tokens, self._prompt_size))
        if self._expected:
            known = self._skip(ids)
            ids, logprobs = ids[known:], logprobs[known:] if logprobs else logprobs
        delta = self.output.push(ids) if ids else None
        if delta is not None and logprobs:
            delta.logprobs = [
                self._logprob(token, row) for token, row in zip(delta.token_ids, logprobs, strict=False)
            ]
        if piece.finish_reason is not None and not self.finished:
            delta = self._end(delta, str(piece.finish_reason))
        return delta

    def _skip(self, ids: list[int]) -> int:
        """Compare ids with those that were emitted before, and count them; they must be the same."""
        known = min(len(ids), len(self._expected))
        if ids[:known] != self._expected[:known]:
            raise NotResumableError(
                "computed again, the answer differs from what was streamed; it cannot be continued"
            )
        del self._expected[:known]
        return known

    def _end(self, delta: TokenDelta | None, reason: str) -> TokenDelta:
        if reason not in _ENDS:
            raise EngineError(f"vLLM ended the request: {reason}")
        last = self.output.end(_ENDS[reason])
        if delta is None:
            return last
        delta.text += last.text
        delta.finish_reason = last.finish_reason
        return delta

    def _logprob(self, token: int, row: Any) -> dict[str, Any]:
        """A token's entry of OpenAI's chat ``logprobs.content``."""
        ranked = sorted(row.items(), key=lambda item: item[1].rank)
        wanted = self.arguments["logprobs"]
        offset, chosen = self._offset, self._entry(token, row[token].logprob)
        self._offset += len(chosen["token"])
        return {
            **chosen,
            "top_logprobs": [self._entry(other, found.logprob) for other, found in ranked[:wanted]],
            "text_offset": offset,
        }

    def _text(self, token: int) -> str:
        return self._tokenizer.decode([token], skip_special_tokens=False)

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._text(token)
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}


def known_before(request: GenerateRequest, choices: list[ChoiceRequest], echoed: str) -> Iterator[TokenDelta]:
    """Yield what needs no engine: ends that were emitted before, and the prompt where it is asked for."""
    for choice in choices:
        index = choice.output.index
        if choice.finished:
            yield choice.output.ended()
        elif echoed and index not in request.output_token_ids:
            yield TokenDelta(echoed, [], index)


def usage_of(request: GenerateRequest, choices: list[ChoiceRequest]) -> dict[str, int]:
    """The ``usage`` of the whole request."""
    produced = sum(choice.output.count for choice in choices)
    cached = max(choice.cached_tokens for choice in choices)
    return usage(len(request.prompt_token_ids), produced, cached)
