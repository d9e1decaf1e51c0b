"""The part of an OpenAI request that an engine gets."""

from __future__ import annotations

from functools import cache
from typing import Any

from dynamo_tasks.protocol.http.openai import (
    OPTIONS,
    CompletionRequest,
    GenerationRequest,
    OpenAIRequest,
    known_fields,
)

__all__ = ["engine_body"]

# Read by the frontend, of no interest to an engine.
_TRANSPORT = {
    "stream",
    "stream_options",
    "user",
    "encoding_format",
    "max_completion_tokens",
    "service_tier",
    *OPTIONS,
} - {
    "priority"  # an engine may schedule by it, too
}
# Saying what holds anyway asks nothing of an engine, and many SDKs always say it.
_NEUTRAL: dict[str, Any] = {
    "n": 1,
    "priority": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "min_p": 0,
    "min_tokens": 0,
    "logit_bias": {},
    "best_of": 1,
    "suffix": "",
    "stop": [],
    "stop_token_ids": [],
    "ignore_eos": False,
    "echo": False,
    "tools": [],
    "response_format": {"type": "text"},
}


def engine_body(request: OpenAIRequest, body: dict[str, Any]) -> dict[str, Any]:
    """Pick the part of a checked body that concerns the engine.

    Left out are fields of the transport, unknown ones, nulls, and values that ask for nothing (``n: 1``).
    ``max_tokens`` is the resolved limit, ``stop`` a list; prompts of token ids become ``prompt_token_ids``.
    """
    known = _engine_fields(type(request))
    out = {
        name: value
        for name, value in body.items()
        if name in known and value is not None and not _neutral(name, value)
    }
    if not out.get("tools"):
        if out.get("tool_choice") in ("none", "auto"):
            del out["tool_choice"]
        out.pop("parallel_tool_calls", None)
    if not isinstance(request, GenerationRequest):
        out.pop("priority", None)
    else:
        if request.limit is not None:
            out["max_tokens"] = request.limit
        if isinstance(out.get("stop"), str):
            out["stop"] = [out["stop"]]
    if isinstance(request, CompletionRequest) and isinstance(request.prompt, list):
        _unpack_prompt(out, request.prompt)
    return out


@cache
def _engine_fields(kind: type[OpenAIRequest]) -> frozenset[str]:
    return known_fields(kind) - _TRANSPORT


def _unpack_prompt(out: dict[str, Any], prompt: list[Any]) -> None:
    only = prompt[0] if len(prompt) == 1 and not isinstance(prompt[0], int) else prompt
    if isinstance(only, str) or isinstance(only[0], str):
        out["prompt"] = only
    else:
        del out["prompt"]
        out["prompt_token_ids"] = only


def _neutral(name: str, value: Any) -> bool:
    if name == "logprobs":
        return value is False  # 0 asks for the chosen token's
    return name in _NEUTRAL and bool(_NEUTRAL[name] == value)
