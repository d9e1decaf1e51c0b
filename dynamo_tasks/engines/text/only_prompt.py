"""The prompt as part of the answer (``echo``), and answers without a token of their own (``max_tokens: 0``)."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from dynamo_tasks.engines.text.request import GenerateRequest
from dynamo_tasks.engines.text.threads import apart
from dynamo_tasks.engines.text.tokenizer import Tokenizer
from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = ["UNSAMPLED", "echoed", "only_prompt", "usage"]

UNSAMPLED = frozenset(
    {
        "allowed_token_ids", "bad_words", "echo", "frequency_penalty", "include_stop_str_in_output", "logit_bias",
        "min_p", "presence_penalty", "repetition_penalty", "skip_special_tokens", "top_k",
    }
)  # fmt: skip
"""Optional fields that an engine honours which samples nothing: what only tunes sampling changes nothing there."""


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> dict[str, int]:
    """The ``usage`` of a request's last delta."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "cached_tokens": cached_tokens,
    }


async def echoed(request: GenerateRequest, tokenizer: Tokenizer) -> str:
    """The text of the prompt where it is asked for."""
    if not request.extra.get("echo"):
        return ""
    ids = request.prompt_token_ids
    return await apart(len(ids), tokenizer.decode, ids)


async def only_prompt(request: GenerateRequest, tokenizer: Tokenizer) -> AsyncGenerator[TokenDelta, None]:
    """Answer a request for no tokens: each choice is the prompt, or nothing."""
    text = await echoed(request, tokenizer)
    for index in range(request.n):
        counts = usage(len(request.prompt_token_ids), 0, 0) if index == request.n - 1 else None
        known = index in request.output_token_ids
        yield TokenDelta("" if known else text, [], index, "length", usage=counts)
