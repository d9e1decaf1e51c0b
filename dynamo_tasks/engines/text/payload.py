"""Public payloads, read into requests to an engine."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from dynamo_tasks.engines.text import fields
from dynamo_tasks.engines.text.prompts import (
    LIMITS,
    PROMPTS,
    check_length,
    images_taken,
    prompt_ids,
    single_payloads,
    with_last_message,
)
from dynamo_tasks.engines.text.request import EmbedRequest, GenerateRequest
from dynamo_tasks.engines.text.tokenizer import Tokenizer
from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.bodies import resolve_aliases
from dynamo_tasks.protocol.http.openai import OPTIONS
from dynamo_tasks.protocol.http.structure import MAX_VALUES
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.protocol.tokens import several_prompts

__all__ = ["EXTRAS", "parse_embed", "parse_generate", "tokenized"]

MAX_CHOICES = 128
MAX_STOPS = 64
MAX_INPUTS = 2048
_SEEDS = 1 << 64

EXTRAS: dict[str, tuple[Any, ...]] = {
    "allowed_token_ids": (None, []),
    "bad_words": (None, []),
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "include_stop_str_in_output": (None, False),
    "last_message": (None,),
    "logit_bias": (None, {}),
    "min_p": (None, 0),
    "parallel_tool_calls": (None, True),
    "presence_penalty": (None, 0),
    "prompt_logprobs": (None,),
    "reasoning_effort": (None, "none"),
    "repetition_penalty": (None, 1),
    "response_format": (None, {"type": "text"}),
    "skip_special_tokens": (None, True),
    "structured_outputs": (None,),
    "suffix": (None, ""),
    "tool_choice": (None, "auto"),
    "tools": (None, []),
    "top_k": (None, 0, -1),
}
"""Fields that only some engines can honour, with the values that ask for nothing.

Other values go into ``GenerateRequest.extra``; an engine refuses those that are not among its features.
"""

_ELSEWHERE = frozenset(
    {
        "add_generation_prompt",
        "add_special_tokens",
        "audio",
        "chat",
        "chat_template_kwargs",
        "deadline",
        "documents",
        "encoding_format",
        "idempotency_key",
        "metadata",
        "modalities",
        "prediction",
        "prompt_cache_key",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "top_logprobs",
        "user",
        "verbosity",
        *OPTIONS,
    }
)
"""Fields that other layers read, or that change nothing that an engine does."""


_READ: dict[str, Callable[[Any, str], Any]] = {
    "stop": lambda value, at: fields.string_list(value, at, MAX_STOPS),
    "stop_token_ids": lambda value, at: fields.token_ids(value, at),
    "temperature": lambda value, at: fields.number(value, at, 0, 2),
    "top_p": lambda value, at: _share(value, at),
    "seed": lambda value, at: fields.integer(value, at, -_SEEDS, _SEEDS),
    "n": lambda value, at: fields.integer(value, at, 1, MAX_CHOICES),
    "ignore_eos": fields.switch,
    "min_tokens": lambda value, at: fields.integer(value, at, 0),
    "priority": lambda value, at: fields.integer(value, at),
    "model": fields.string,
    "cache_salt": fields.string,
}
_READ_EXTRA: dict[str, Callable[[Any, str], Any]] = {
    "allowed_token_ids": lambda value, at: fields.token_ids(value, at),
    "bad_words": lambda value, at: fields.string_list(value, at, MAX_STOPS),
    "echo": fields.switch,
    "include_stop_str_in_output": fields.switch,
    "last_message": lambda value, at: _last_message(value, at),
    "parallel_tool_calls": fields.switch,
    "reasoning_effort": fields.string,
    "repetition_penalty": lambda value, at: fields.number(value, at, 0.01, 10),
    "skip_special_tokens": fields.switch,
    "frequency_penalty": lambda value, at: fields.number(value, at, -2, 2),
    "min_p": lambda value, at: fields.number(value, at, 0, 1),
    "presence_penalty": lambda value, at: fields.number(value, at, -2, 2),
    "top_k": lambda value, at: fields.integer(value, at, -1),
}
_SMALLEST_SHARE = 1e-6
"""The meaning of ``top_p: 0``: the likeliest token alone; engines want more than nothing."""
_KNOWN = frozenset({*PROMPTS, *_READ, *LIMITS, *EXTRAS, *_ELSEWHERE, "images", "logprobs"})


def _share(value: Any, at: str) -> float:
    return fields.number(value, at, 0, 1) or _SMALLEST_SHARE


def parse_generate(
    payload: Mapping[str, Any],
    tokenizer: Tokenizer,
    card: ModelCard,
    *,
    request_id: str | None = None,
    output_token_ids: Mapping[int, list[int]] | list[int] | None = None,
) -> GenerateRequest:
    """Read the public payload of ``Worker.generate``.

    Args:
        payload: ``{"prompt" | "messages" | "prompt_token_ids", "model", "max_tokens", "stop", …}``.
            A field that is ``None`` counts as absent. Images come in messages, or as ``images`` (bytes or base64)
            beside a prompt that has their placeholders.
        tokenizer: Of the model.
        card: Of the model; its template renders ``messages``, its ``max_model_len`` bounds the length.
        request_id: Id of the request; a new one by default.
        output_token_ids: What an interrupted attempt emitted, per choice (or a list: of choice 0).

    Raises:
        InvalidRequestError: ``param`` names the field.
    """
    if not isinstance(payload, Mapping):
        raise InvalidRequestError(f"the payload must be an object, not {type(payload).__name__}")
    payload = resolve_aliases(payload)
    asked = _read_fields(payload)
    payload = images_taken(payload, card)
    request = GenerateRequest(
        request_id=request_id or uuid.uuid4().hex,
        prompt_token_ids=prompt_ids(payload, tokenizer, card),
        output_token_ids=_emitted(output_token_ids),
        images=list(payload.get("images") or ()),
        extra=_extra(with_last_message(payload, card)),
        **asked,
    )
    check_length(len(request.prompt_token_ids), request.max_tokens, card.max_model_len, payload)
    return request


def _read_fields(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Read what a payload asks for besides its prompt, and check the rest of it.

    Args:
        payload: See :func:`parse_generate`; under the names that are used here.

    Returns:
        Fields of a :class:`GenerateRequest`, ``max_tokens`` among them.

    Raises:
        InvalidRequestError: ``param`` names the field.
    """
    fields.refuse_misspelled(payload, _KNOWN)
    given: dict[str, Any] = {
        name: read(payload[name], name) for name, read in _READ.items() if payload.get(name) is not None
    }
    least, most = given.get("min_tokens", 0), _max_tokens(payload)
    if most is not None and least > most:
        raise InvalidRequestError(f"min_tokens ({least}) is above max_tokens ({most})", param="min_tokens")
    _extra(payload)
    return {**given, "max_tokens": most, "logprobs": _logprobs(payload)}


def _last_message(value: Any, at: str) -> None:
    if not isinstance(value, Mapping) or {"role", "content"} != value.keys():
        raise InvalidRequestError(f'{at} must be {{"role": …, "content": …}}', param=at)
    for name in value:
        if not isinstance(value[name], str):
            raise InvalidRequestError(f"{at}.{name} must be a string", param=f"{at}.{name}")


def _max_tokens(payload: Mapping[str, Any]) -> int | None:
    for name in LIMITS:
        if (value := payload.get(name)) is not None:
            return fields.integer(value, name, 0)
    return None


def _logprobs(payload: Mapping[str, Any]) -> int | None:
    """``logprobs: true`` + ``top_logprobs: 5`` of chat, or ``logprobs: 5`` of completions."""
    value, top = payload.get("logprobs"), payload.get("top_logprobs")
    if top is not None:
        top = fields.integer(top, "top_logprobs", 0)
    if value is True:
        return top or 0
    return None if value is None or value is False else fields.integer(value, "logprobs", 0)


def _extra(payload: Mapping[str, Any]) -> dict[str, Any]:
    for name, read in _READ_EXTRA.items():
        if payload.get(name) is not None:
            read(payload[name], name)
    return {name: value for name, value in payload.items() if name in EXTRAS and value not in EXTRAS[name]}


def _emitted(given: Mapping[int, list[int]] | list[int] | None) -> dict[int, list[int]]:
    if given is None:
        return {}
    by_choice = given if isinstance(given, Mapping) else {0: given}
    return {int(index): list(ids) for index, ids in by_choice.items()}


def tokenized(payload: Mapping[str, Any], tokenizer: Tokenizer, card: ModelCard) -> dict[str, Any]:
    """A payload whose prompts are token ids, checked.

    Args:
        payload: As of ``Worker.generate``.
        tokenizer: Of the model.
        card: Of the model.

    Raises:
        InvalidRequestError: a bad field, or prompts that are too long, each by itself or together.
    """
    payload = resolve_aliases(payload)
    most = _read_fields(payload)["max_tokens"]
    payload = images_taken(payload, card)
    singles = single_payloads(payload)
    if len(singles) > 1 and payload.get("images"):
        raise InvalidRequestError("images: not allowed together with several prompts", param="images")
    rest = {name: value for name, value in payload.items() if name not in PROMPTS}
    ids: list[list[int]] = []
    for place, single in enumerate(singles):
        try:
            ids.append(prompt_ids(single, tokenizer, card))
            check_length(len(ids[-1]), most, card.max_model_len, single)
        except InvalidRequestError as error:
            if len(singles) > 1:
                error.param = _at(error.param, place)
            raise
    total = sum(map(len, ids))
    if total > MAX_VALUES and len(ids) > 1:
        raise InvalidRequestError(
            f"prompt: {total} tokens in {len(ids)} prompts; at most {MAX_VALUES} are allowed in one request",
            param="prompt",
        )
    last = with_last_message(payload, card).get("last_message")
    heard = {} if last is None else {"last_message": last}
    return {**rest, **heard, "prompt_token_ids": ids if several_prompts(payload) else ids[0]}


def _at(param: str | None, place: int) -> str | None:
    name = next((name for name in ("prompt_token_ids", "prompt") if (param or "").startswith(name)), None)
    return param if name is None or param is None else f"{name}[{place}]{param[len(name) :]}"


def parse_embed(payload: Mapping[str, Any]) -> EmbedRequest:
    """Read the public payload of ``Worker.embed``: ``{"input", "dimensions"?}``.

    ``input`` is a text, a list of texts, a list of token ids, or a list of such lists.

    Raises:
        InvalidRequestError: ``param`` names the field.
    """
    if not isinstance(payload, Mapping):
        raise InvalidRequestError(f"the payload must be an object, not {type(payload).__name__}")
    fields.refuse_misspelled(payload, {"input", "dimensions", "model", *_ELSEWHERE})
    dimensions = payload.get("dimensions")
    if dimensions is not None:
        dimensions = fields.integer(dimensions, "dimensions", 1)
    return EmbedRequest(_inputs(payload.get("input")), dimensions)


def _inputs(value: object) -> list[str | list[int]]:
    if isinstance(value, str):
        return [fields.string(value, "input")]
    if not isinstance(value, list | tuple) or not value:
        raise InvalidRequestError(
            "input must be a text, a list of texts, or token ids, and not empty", param="input"
        )
    if type(value[0]) is int:
        return [fields.token_ids(value, "input")]
    if len(value) > MAX_INPUTS:
        raise InvalidRequestError(
            f"input has {len(value)} entries; at most {MAX_INPUTS} are allowed", param="input"
        )
    return [_input(item, f"input[{i}]") for i, item in enumerate(value)]


def _input(value: object, at: str) -> str | list[int]:
    if isinstance(value, str):
        return fields.string(value, at)
    if not (ids := fields.token_ids(value, at)):
        raise InvalidRequestError(f"{at} is empty", param=at)
    return ids
