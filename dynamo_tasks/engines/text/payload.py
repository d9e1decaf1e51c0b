"""Public payloads, read into requests to an engine."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from dynamo_tasks.engines.images.messages import take_images
from dynamo_tasks.engines.text import fields
from dynamo_tasks.engines.text.content import check_placeholders, place_images
from dynamo_tasks.engines.text.fields import check_text, too_long
from dynamo_tasks.engines.text.request import EmbedRequest, GenerateRequest
from dynamo_tasks.engines.text.template import last_message, render_chat
from dynamo_tasks.engines.text.tokenizer import Tokenizer
from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.bodies import resolve_aliases
from dynamo_tasks.protocol.http.openai import OPTIONS
from dynamo_tasks.protocol.instances import ModelCard

__all__ = [
    "EXTRAS",
    "check_length",
    "images_taken",
    "parse_embed",
    "parse_generate",
    "prompt_ids",
    "with_last_message",
]

MAX_CHOICES = 128
MAX_STOPS = 64
MAX_INPUTS = 2048
_SEEDS = 1 << 64

_PROMPTS = ("prompt", "messages", "prompt_token_ids")

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
_NEEDS_LAST = frozenset({"reasoning_effort", "tools"})
_SMALLEST_SHARE = 1e-6
"""The meaning of ``top_p: 0``: the likeliest token alone; engines want more than nothing."""
_RESERVED = ("messages", "template", "chat_template", "conversation", "tokenize")
_LIMITS = ("max_completion_tokens", "max_tokens")
_KNOWN = frozenset({*_PROMPTS, *_READ, *_LIMITS, *EXTRAS, *_ELSEWHERE, "images", "logprobs"})


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
    fields.refuse_misspelled(payload, _KNOWN)
    payload = images_taken(payload, card)
    given: dict[str, Any] = {
        name: read(payload[name], name) for name, read in _READ.items() if payload.get(name) is not None
    }
    request = GenerateRequest(
        request_id=request_id or uuid.uuid4().hex,
        prompt_token_ids=prompt_ids(payload, tokenizer, card),
        max_tokens=_max_tokens(payload),
        logprobs=_logprobs(payload),
        output_token_ids=_emitted(output_token_ids),
        images=list(payload.get("images") or ()),
        extra=_extra(with_last_message(payload, card)),
        **given,
    )
    check_length(len(request.prompt_token_ids), request.max_tokens, card.max_model_len, payload)
    if request.max_tokens is not None and request.min_tokens > request.max_tokens:
        raise InvalidRequestError(
            f"min_tokens ({request.min_tokens}) is above max_tokens ({request.max_tokens})",
            param="min_tokens",
        )
    return request


def images_taken(payload: Mapping[str, Any], card: ModelCard) -> Mapping[str, Any]:
    """A payload whose images are bytes in ``images``; where the model takes none, its parts are refused as such.

    Raises:
        InvalidRequestError: An image is not valid, or the model takes no images or not so many.
    """
    if not card.images and payload.get("images") is None:
        return payload
    payload = take_images(payload)
    images = payload.get("images") or ()
    if len(images) > card.images:
        allowed = f"at most {card.images} are allowed" if card.images else "it takes text alone"
        raise InvalidRequestError(f"images: {len(images)} for model {card.name!r}; {allowed}", param="images")
    return payload


def prompt_ids(payload: Mapping[str, Any], tokenizer: Tokenizer, card: ModelCard) -> list[int]:
    """The prompt of a payload as token ids.

    Raises:
        InvalidRequestError: none or several prompts, an empty one, or bad messages.
    """
    given = [name for name in _PROMPTS if payload.get(name) is not None]
    if len(given) != 1:
        problem = f"both {' and '.join(given)} are given" if given else "none is given"
        param = given[-1] if given else "prompt"
        raise InvalidRequestError(f"one of {', '.join(_PROMPTS)} is needed; {problem}", param=param)
    name = given[0]
    value = payload[name]
    if name == "messages":
        text = _render(value, payload, tokenizer, card)
        check_text(text, tokenizer, card.max_model_len, name)
        ids = tokenizer.encode(text, add_special_tokens=_special(payload, usual=False))
        if payload.get("images"):
            template = _template(payload, tokenizer, card)
            check_placeholders(ids, len(payload["images"]), template, card.image_placeholder, tokenizer)
    elif name == "prompt" and isinstance(value, str):
        check_text(value, tokenizer, card.max_model_len, name)
        ids = tokenizer.encode(value, add_special_tokens=_special(payload, usual=True))
    else:
        if isinstance(value, list | tuple) and len(value) > (card.max_model_len or len(value)):
            raise too_long(card.max_model_len, len(value), param=name)
        ids = fields.token_ids(value, name, tokenizer.vocab_size)
    if not ids:
        raise InvalidRequestError(f"{name} is empty; at least one token is needed", param=name)
    return ids


def _special(payload: Mapping[str, Any], *, usual: bool) -> bool:
    """Return whether the tokenizer puts a BOS or the like in front: a chat's template has done that."""
    given = payload.get("add_special_tokens")
    return usual if given is None else fields.switch(given, "add_special_tokens")


def with_last_message(payload: Mapping[str, Any], card: ModelCard) -> Mapping[str, Any]:
    """A payload that was checked, with what was said last in its chat, if the engine wants to know that.

    An engine that does by itself what tools and reasoning ask for cannot well find it in the prompt's tokens.
    """
    if not card.heeds_tool_choice or payload.get("messages") is None or _NEEDS_LAST.isdisjoint(payload):
        return payload
    messages = payload["messages"]
    if card.images:
        messages = place_images(messages, None, card.image_placeholder)
    return {**payload, "last_message": last_message(messages)}


def _last_message(value: Any, at: str) -> None:
    if not isinstance(value, Mapping) or {"role", "content"} != value.keys():
        raise InvalidRequestError(f'{at} must be {{"role": …, "content": …}}', param=at)
    for name in value:
        if not isinstance(value[name], str):
            raise InvalidRequestError(f"{at}.{name} must be a string", param=f"{at}.{name}")


def _render(messages: object, payload: Mapping[str, Any], tokenizer: Tokenizer, card: ModelCard) -> str:
    template = _template(payload, tokenizer, card)
    if card.images:
        messages = place_images(messages, template, card.image_placeholder)
    more = payload.get("chat_template_kwargs") or {}
    if not isinstance(more, Mapping):
        raise InvalidRequestError("chat_template_kwargs must be an object", param="chat_template_kwargs")
    if reserved := [name for name in _RESERVED if name in more]:
        at = f"chat_template_kwargs.{reserved[0]}"
        raise InvalidRequestError(f"{at} is not a variable of the template", param=at)
    variables = {
        **tokenizer.special_tokens,
        "add_generation_prompt": payload.get("add_generation_prompt", True),
        "tools": payload.get("tools") or None,
        "documents": payload.get("documents"),
        **(
            {}
            if payload.get("reasoning_effort") is None
            else {"reasoning_effort": payload["reasoning_effort"]}
        ),
        **more,
    }
    return render_chat(messages, template, variables)


def _template(payload: Mapping[str, Any], tokenizer: Tokenizer, card: ModelCard) -> str | None:
    if card.chat_template is not None:
        return card.chat_template
    return (tokenizer.tool_template if payload.get("tools") else None) or tokenizer.chat_template


def _max_tokens(payload: Mapping[str, Any]) -> int | None:
    for name in _LIMITS:
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


def check_length(prompt: int, limit: int | None, longest: int, payload: Mapping[str, Any]) -> None:
    """Refuse what the model cannot hold.

    Args:
        prompt: Tokens of the prompt.
        limit: Tokens that the answer may have; ``None`` = as many as there is room for.
        longest: The model's context length; 0 = no limit.
        payload: Names the field at fault.
    """
    answer = 1 if limit is None else limit
    if not longest or prompt + answer <= longest:
        return
    at_fault = _LIMITS if prompt < longest else _PROMPTS
    param = next(name for name in at_fault if payload.get(name) is not None)
    raise too_long(longest, prompt, limit or 0, param=param)


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
