"""Bodies of ``/tokenize`` and ``/detokenize``, as vLLM's server takes them."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.bodies import decode_object, similar
from dynamo_tasks.protocol.http.openai import ChatRequest, CompletionRequest, parse_request

__all__ = ["parse_detokenize", "parse_tokenize"]

_FLAGS = ("add_generation_prompt", "add_special_tokens", "return_token_strs")
_CHAT = ("chat_template_kwargs", "documents", "messages", "reasoning_effort", "tools")
_REFUSED = ("chat_template", "continue_final_message", "mm_processor_kwargs")
_KNOWN = frozenset({"model", "prompt", *_CHAT, *_FLAGS, *_REFUSED})


def parse_tokenize(raw: bytes, only: str) -> tuple[str, dict[str, Any]]:
    """Read a body of ``/tokenize``.

    Args:
        raw: The body.
        only: The model that is meant where none is named; empty = one must be.

    Returns:
        The name of the model, and what is to be tokenized: ``prompt`` or ``messages``, and what belongs to it.

    Raises:
        InvalidRequestError: names the field.
    """
    body = _body(raw, only, _KNOWN)
    given = [name for name in ("prompt", "messages") if body.get(name) is not None]
    if len(given) != 1:
        raise _refuse(given[-1] if given else "prompt", "one of prompt and messages is needed")
    if refused := next((name for name in _REFUSED if body.get(name)), None):
        raise _refuse(refused, "not supported")
    for name in _FLAGS:
        if not isinstance(body.get(name), bool | None):
            raise _refuse(name, "must be true or false")
    if given == ["messages"]:
        parse_request(ChatRequest, {name: body[name] for name in ("model", *_CHAT) if name in body})
    elif not isinstance(body["prompt"], str):
        raise _refuse("prompt", "must be a text")
    else:
        parse_request(CompletionRequest, {"model": body["model"], "prompt": body["prompt"]})
    known = {*given, *_FLAGS, *(_CHAT if given == ["messages"] else ())}
    return body["model"], {name: body[name] for name in known if body.get(name) is not None}


def parse_detokenize(raw: bytes, only: str) -> tuple[str, dict[str, Any]]:
    """Read a body of ``/detokenize``; as :func:`parse_tokenize`, with ``tokens``."""
    body = _body(raw, only, frozenset({"model", "tokens"}))
    if not isinstance(body.get("tokens"), list):
        raise _refuse("tokens", "must be a list of token ids")
    return body["model"], {"tokens": body["tokens"]}


def _body(raw: bytes, only: str, known: frozenset[str]) -> dict[str, Any]:
    body = decode_object(raw)
    if found := similar(body, known):
        raise InvalidRequestError(f"unknown field {found[0]!r}; did you mean {found[1]!r}?", param=found[0])
    model = only if body.get("model") is None else body["model"]
    if not isinstance(model, str) or not model:
        raise _refuse("model", "this field is required" if model == "" else "must be a text")
    return {**body, "model": model}


def _refuse(param: str, text: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: {text}", param=param)
