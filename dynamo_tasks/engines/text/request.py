"""Requests to an engine."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["EmbedRequest", "GenerateRequest"]


class GenerateRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A request to generate tokens, as an engine takes it.

    Attributes:
        request_id: Id of the request; the engine's own records and logs use it.
        prompt_token_ids: The prompt; at least one token. An image has its placeholder here, once.
        images: Files of the images in the prompt, in order: PNG, JPEG, WebP or GIF, their sizes checked.
        max_tokens: Most tokens of a choice, those of ``output_token_ids`` included; 0 = only the prompt is
            wanted; ``None`` = the engine's default.
        stop: Strings that end a choice; the text is cut before them.
        stop_token_ids: Ids that end a choice; the id is kept, its text is not.
        temperature: 0..2; ``None`` = the model's own default.
        top_p: Above 0, up to 1; ``None`` likewise.
        seed: ``None`` = the engine's.
        n: Number of choices.
        ignore_eos: Go on after the model's end-of-text token.
        min_tokens: No stop ends a choice before this many tokens.
        priority: Lower goes first.
        model: The served name that was asked for: the model's, or that of one of its adapters.
        cache_salt: The prefix cache shares nothing with requests of another salt, or of none.
        logprobs: How many alternatives per token; ``None`` = no logprobs at all.
        output_token_ids: To continue an interrupted answer: per choice, what was emitted already.
            Nothing of it is emitted again.
        extra: Fields that only some engines can honour, see
            :data:`~dynamo_tasks.engines.text.payload.EXTRAS`.
        is_read: A function that says whether somebody reads the answer now; ``None`` = somebody does.
    """

    request_id: str
    prompt_token_ids: list[int]
    images: list[bytes] = []
    max_tokens: int | None = None
    stop: list[str] = []
    stop_token_ids: list[int] = []
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    n: int = 1
    ignore_eos: bool = False
    min_tokens: int = 0
    priority: int = 0
    model: str | None = None
    cache_salt: str | None = None
    logprobs: int | None = None
    output_token_ids: dict[int, list[int]] = {}
    extra: dict[str, Any] = {}
    is_read: Any = None


class EmbedRequest(msgspec.Struct, frozen=True):
    """A request to embed texts, as an engine takes it.

    Attributes:
        inputs: Texts, or token ids.
        dimensions: Length of the vectors; ``None`` = the engine's default.
    """

    inputs: list[str | list[int]]
    dimensions: int | None = None
