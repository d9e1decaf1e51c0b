"""Requests as vLLM's ``SamplingParams``, and how an interrupted one goes on.

A request whose next token depends on nothing but prompt and answer *continues*: vLLM gets prompt + emitted
ids as its prompt. What counts or constrains the answer itself keeps a state that cannot be moved: such
a request is *replayed*, that is computed again from its prompt with the same seed, and what was emitted is
compared and left out. So that there is always a seed to replay with, one is made from the request's id.
``docs/vllm.md`` has the table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from dynamo_tasks.engines.text.payload import EXTRAS
from dynamo_tasks.engines.text.request import GenerateRequest
from dynamo_tasks.engines.text.structured import CONSTRAINTS, structured_outputs
from dynamo_tasks.errors import InvalidRequestError

__all__ = ["FEATURES", "ModelLimits", "check_request", "is_replayed", "may_be_replayed", "sampling_arguments"]

_PLAIN = ("frequency_penalty", "presence_penalty", "repetition_penalty", "top_k", "min_p", "bad_words",
          "allowed_token_ids")  # fmt: skip

FEATURES = frozenset(
    {
        *_PLAIN, *CONSTRAINTS, "echo", "include_stop_str_in_output", "logit_bias", "logprobs",
        "skip_special_tokens",
    }
)  # fmt: skip
"""Optional request fields that the vllm engine honours."""

_COUNTING = ("frequency_penalty", "presence_penalty", "bad_words")
_STATEFUL = (*_COUNTING, "structured_outputs")
"""Arguments that count or constrain the answer itself."""
_MOST_CONSTRAINT = 1 << 18
"""vLLM reads a constraint on the event loop."""
_GREEDY = 1e-5
_INT64 = 1 << 63


class ModelLimits(msgspec.Struct, frozen=True):
    """The limits and defaults of a model and its engine.

    Attributes:
        vocab_size: Ids go from 0 to below it.
        max_logprobs: Most alternatives per token.
        defaults: Sampling parameters that the model itself brings (``generation_config.json``).
        priorities: Whether the scheduler heeds them.
    """

    vocab_size: int
    max_logprobs: int = 20
    defaults: Mapping[str, Any] = {}
    priorities: bool = False


def check_request(request: GenerateRequest, limits: ModelLimits) -> None:
    """Refuse what vLLM would refuse or misread.

    Raises:
        InvalidRequestError: ``param`` names the field.
    """
    extra = request.extra
    if request.logprobs is not None and request.logprobs > limits.max_logprobs:
        raise _refuse(
            "logprobs", f"{request.logprobs} alternatives; at most {limits.max_logprobs} are allowed"
        )
    if extra.get("echo") and request.logprobs is not None:
        raise _refuse("echo", "not allowed together with logprobs")
    if request.seed is not None and not -_INT64 <= request.seed < _INT64:
        raise _refuse("seed", "must fit into 64 bits")
    for name in ("stop_token_ids", "allowed_token_ids"):
        ids = request.stop_token_ids if name == "stop_token_ids" else extra.get(name) or ()
        _check_ids(name, ids, limits.vocab_size)
    _check_ids("logit_bias", _logit_bias(extra), limits.vocab_size)
    for name in CONSTRAINTS:
        if name in extra and len(msgspec.json.encode(extra[name])) > _MOST_CONSTRAINT:
            raise _refuse(name, f"at most {_MOST_CONSTRAINT} bytes of JSON are allowed")
    structured_outputs(extra)


def sampling_arguments(request: GenerateRequest, limits: ModelLimits, index: int) -> dict[str, Any]:
    """Arguments of ``SamplingParams`` for one choice, as if nothing had been emitted yet.

    Args:
        request: It was checked.
        limits: Of the model.
        index: Which of its choices.
    """
    given: dict[str, Any] = {name: limits.defaults[name] for name in limits.defaults if name != "max_tokens"}
    given |= {name: request.extra[name] for name in _PLAIN if name in request.extra}
    for name in ("temperature", "top_p"):
        if (value := getattr(request, name)) is not None:
            given[name] = value
    given |= {
        "stop_token_ids": request.stop_token_ids,
        "ignore_eos": request.ignore_eos,
        "min_tokens": request.min_tokens,
        "logprobs": request.logprobs,
        "logit_bias": _logit_bias(request.extra) or None,
        "structured_outputs": structured_outputs(request.extra),
    }
    given["seed"] = _seed(request, given, index)
    return {name: value for name, value in given.items() if value is not None}


def is_replayed(arguments: Mapping[str, Any]) -> bool:
    """Return whether an interrupted request with these arguments is computed again from its start."""
    return _has_state(arguments) or (arguments.get("seed") is not None and not _is_greedy(arguments))


def may_be_replayed(payload: Mapping[str, Any], limits: ModelLimits) -> bool:
    """Return whether :func:`is_replayed` may hold for a public payload, which was not checked yet."""
    given = {**limits.defaults, **{name: value for name, value in payload.items() if value is not None}}
    if any(given.get(name) not in EXTRAS[name] for name in (*_COUNTING, *CONSTRAINTS)):
        return True
    chat = given.get("chat")
    if isinstance(chat, Mapping) and chat.get("tool_choice") not in (None, "none", "auto"):
        return True  # a parser makes a constraint of it
    heat = given.get("temperature", 1.0)
    return given.get("seed") not in (None, -1) and not (isinstance(heat, int | float) and heat < _GREEDY)


def _has_state(arguments: Mapping[str, Any]) -> bool:
    return any(arguments.get(name) for name in _STATEFUL)


def _is_greedy(arguments: Mapping[str, Any]) -> bool:
    return float(arguments.get("temperature", 1.0)) < _GREEDY


def _seed(request: GenerateRequest, arguments: Mapping[str, Any], index: int) -> int | None:
    """The seed of a choice: what was asked for, or one of its own where it may have to be replayed."""
    if request.seed is not None and request.seed != -1:  # -1 asks vLLM for none
        return (request.seed + index + _INT64) % (2 * _INT64) - _INT64
    if not _has_state(arguments) or _is_greedy(arguments):
        return None
    digest = hashlib.blake2b(f"{request.request_id} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # not negative as a signed number of 64 bits


def _logit_bias(extra: Mapping[str, Any]) -> dict[int, float]:
    value = extra.get("logit_bias") or {}
    if not isinstance(value, Mapping):
        raise _refuse("logit_bias", "must be an object of token ids and numbers")
    out: dict[int, float] = {}
    for token, bias in value.items():
        text = str(token)
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise _refuse("logit_bias", f"{token!r:.60} is not a token id; the keys are token ids in digits")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise _refuse(f"logit_bias.{text}", f"must be a number from -100 to 100, not {bias!r}")
        out[int(text)] = float(bias)
    return out


def _check_ids(param: str, ids: Any, vocab_size: int) -> None:
    for token in ids:
        if token >= vocab_size:
            raise _refuse(param, f"{token} is not a token of the model; ids go from 0 to {vocab_size - 1}")


def _refuse(param: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: {problem}", param=param)
