"""Prompts of payloads: their images and texts, their tokens, and whether the model can hold these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamo_tasks.engines.images.messages import take_images
from dynamo_tasks.engines.text import fields
from dynamo_tasks.engines.text.chats.content import check_placeholders, place_images
from dynamo_tasks.engines.text.chats.messages import last_message
from dynamo_tasks.engines.text.threads import INLINE
from dynamo_tasks.engines.text.tokenizer import Tokenizer
from dynamo_tasks.errors import ContextLengthError, InvalidRequestError
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.protocol.tokens import several_prompts

__all__ = [
    "LIMITS",
    "PROMPTS",
    "check_length",
    "check_text",
    "images_taken",
    "prompt_ids",
    "single_payloads",
    "size_of",
    "too_long",
    "with_last_message",
]

PROMPTS = ("prompt", "messages", "prompt_token_ids")
"""Fields that a prompt may come in; one of them."""
LIMITS = ("max_completion_tokens", "max_tokens")
"""Fields that bound the answer; the first one wins."""
_NEEDS_LAST = frozenset({"reasoning_effort", "tools"})
_RESERVED = ("messages", "template", "chat_template", "conversation", "tokenize")


def single_payloads(payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A payload for each prompt."""
    name = several_prompts(payload)
    return [payload] if name is None else [{**payload, name: prompt} for prompt in payload[name]]


def size_of(payload: Any) -> int:
    """About what reading a payload costs, in characters or tokens."""
    if not isinstance(payload, Mapping):
        return 0
    images = payload.get("images")
    size = 0 if images is None else _size(images)
    if payload.get("prompt_token_ids") is not None:
        return size
    prompt, messages = payload.get("prompt"), payload.get("messages")
    return size + _size(prompt) + (_size(messages) if isinstance(messages, list) else 0)


def _size(value: Any) -> int:
    if isinstance(value, list):
        return sum(16 + _size(item) for item in value)
    return (
        sum(map(_size, value.values()))
        if isinstance(value, dict)
        else len(value)
        if isinstance(value, str | bytes)
        else 0
    )


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
    given = [name for name in PROMPTS if payload.get(name) is not None]
    if len(given) != 1:
        problem = f"both {' and '.join(given)} are given" if given else "none is given"
        param = given[-1] if given else "prompt"
        raise InvalidRequestError(f"one of {', '.join(PROMPTS)} is needed; {problem}", param=param)
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


def _render(messages: object, payload: Mapping[str, Any], tokenizer: Tokenizer, card: ModelCard) -> str:
    from dynamo_tasks.engines.text.chats.template import render_chat  # Jinja is slow to import

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


def check_text(text: str, tokenizer: Tokenizer, longest: int, param: str) -> None:
    """Refuse a long text that surely has too many tokens; tokenizing it would take seconds.

    Args:
        text: To be tokenized.
        tokenizer: Of the model.
        longest: The model's context length; 0 = no limit.
        param: The field that it came in.

    Raises:
        ContextLengthError: It has.
    """
    if not longest or len(text) <= INLINE:
        return
    least = tokenizer.least_tokens(text)
    if least > longest:
        raise too_long(longest, least, param=param, at_least=True)


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
    at_fault = LIMITS if prompt < longest else PROMPTS
    param = next(name for name in at_fault if payload.get(name) is not None)
    raise too_long(longest, prompt, limit or 0, param=param)


def too_long(
    longest: int, prompt: int, answer: int = 0, *, param: str, at_least: bool = False
) -> ContextLengthError:
    """The error, in the words by which clients of OpenAI's API know it.

    Args:
        longest: The model's context length.
        prompt: Tokens of the prompt.
        answer: Tokens that the answer may have.
        param: The field at fault.
        at_least: The prompt has that many or more.
    """
    where = "at least " if at_least else ""
    asked = f"your request has {where}{prompt} tokens"
    if answer:
        asked = f"you requested {prompt + answer} tokens ({prompt} in the prompt, {answer} in the completion)"
    return ContextLengthError(
        f"This model's maximum context length is {longest} tokens. However, {asked}. "
        "Please reduce the length of the prompt or of the completion.",
        param=param,
    )
