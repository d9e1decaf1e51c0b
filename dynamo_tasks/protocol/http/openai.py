"""Requests of the OpenAI API, checked strictly.

The fields are those of OpenAI's chat completions, completions and embeddings, vLLM's sampling extensions,
and those of a request's options that clients may choose (:data:`OPTIONS`). What a client asks of the
engine travels on as the payload; an engine refuses what it cannot do. A field that only other servers know is taken
under its name here or ignored (:mod:`dynamo_tasks.protocol.http.bodies`); so is one that nobody knows, unless it
looks like a misspelt known one.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.bodies import PASSED, resolve_aliases, similar
from dynamo_tasks.protocol.http.chat_messages import Message, check_message, refused
from dynamo_tasks.protocol.options import LAST_PRIORITY, Priority, RequestOptions, Seconds

__all__ = [
    "MAX_CHOICES",
    "MAX_INPUTS",
    "MAX_MESSAGES",
    "MAX_STOPS",
    "OPTIONS",
    "TIERS",
    "ChatRequest",
    "CompletionRequest",
    "EmbeddingRequest",
    "GenerationRequest",
    "OpenAIRequest",
    "StreamOptions",
    "known_fields",
    "named_error",
    "parse_request",
]

MAX_STOPS = 16
"""Stop strings of one request (OpenAI allows 4, vLLM any number)."""
MAX_INPUTS = 2048
"""Inputs of one embeddings request, as at OpenAI."""
MAX_MESSAGES = 4096
"""Messages of one chat."""
MAX_CHOICES = 1024
"""Choices of one completions request: prompts × ``n``."""
TIERS = ("auto", "default", "flex", "priority", "scale")
"""Service tiers that may be asked for, as at OpenAI."""

_INT32 = 2**31 - 1
_Count = Annotated[int, Meta(ge=1, le=_INT32)]
_NotNegative = Annotated[int, Meta(ge=0, le=_INT32)]
_Positive = Annotated[float, Meta(gt=0, le=10**9)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Bias = Annotated[float, Meta(ge=-100, le=100)]
# Of what is echoed in errors, compared, or kept as it is.
_Name = Annotated[str, Meta(max_length=256)]
_Stop = Annotated[str, Meta(max_length=1024)]
_Format = Annotated[str, Meta(max_length=32, extra_json_schema={"enum": ["float", "base64"]})]
_Tier = Annotated[str, Meta(max_length=32, extra_json_schema={"enum": list(TIERS)})]
_Tokens = str | list[str | int | list[int]]


class StreamOptions(Struct):
    """``stream_options``: whether a last chunk has the usage."""

    include_usage: bool | None = None


class OpenAIRequest(Struct, kw_only=True):
    """The fields that all three APIs share.

    Attributes:
        model: A served model name.
        timeout: Seconds from now until the request's deadline.
    """

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    user: Annotated[str, Meta(max_length=512)] | None = None
    timeout: _Positive | None = None
    priority: Priority | None = None

    def options(self) -> dict[str, Any]:
        """The :data:`OPTIONS` that it names."""
        return {name: value for name in OPTIONS if (value := getattr(self, name, None)) is not None}


class GenerationRequest(OpenAIRequest, kw_only=True):
    """The fields that chat completions and completions share.

    ``background`` without ``stream`` is answered with 202 and the request's id.
    """

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    max_tokens: _Count | None = None
    min_tokens: _NotNegative | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=_INT32)] | None = None
    min_p: _Share | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: _Stop | list[_Stop] | None = None
    stop_token_ids: Annotated[list[_NotNegative], Meta(max_length=1024)] | None = None
    ignore_eos: bool | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    logit_bias: Annotated[dict[_Name, _Bias], Meta(max_length=1024)] | None = None
    cache_salt: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None
    service_tier: _Tier | None = None
    background: bool | None = None
    abandon_after: Seconds | None = None
    retention: Seconds | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens to generate, ``None`` = what the model can hold."""
        return self.max_tokens

    @property
    def tier(self) -> str:
        """The service tier that serves it, for the answer; empty where none was asked for."""
        if self.service_tier is None or self.service_tier in ("flex", "priority"):
            return self.service_tier or ""
        return "default"

    def options(self) -> dict[str, Any]:
        """The :data:`OPTIONS` that it names, and what its tier is made of."""
        flex = {"priority": LAST_PRIORITY, "preemptible": True} if self.service_tier == "flex" else {}
        return flex | super().options()

    @property
    def include_usage(self) -> bool:
        """``True`` if the stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)


OPTIONS = (
    "timeout",
    *(name for name in RequestOptions.__struct_fields__ if hasattr(GenerationRequest, name)),
)
"""Fields that are options of the request; ``timeout`` makes its deadline."""


class ChatRequest(GenerationRequest, kw_only=True):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=512)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Annotated[str, Meta(min_length=1, max_length=32)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None

    @property
    def limit(self) -> int | None:
        """``max_completion_tokens``, else the older ``max_tokens``."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(GenerationRequest, kw_only=True):
    """``POST /v1/completions``; one or several prompts, as text or token ids. ``max_tokens: 0`` only reads them."""

    prompt: _Tokens
    max_tokens: _NotNegative | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=128)] | None = None
    echo: bool | None = None
    suffix: str | None = None

    @property
    def limit(self) -> int:
        """``max_tokens``, by default 16 as at OpenAI."""
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        several = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return len(self.prompt) if several else 1


class EmbeddingRequest(OpenAIRequest, kw_only=True):
    """``POST /v1/embeddings``; one or several inputs, as text or token ids."""

    input: _Tokens
    encoding_format: _Format | None = None
    dimensions: _Count | None = None


_Request = TypeVar("_Request", bound=OpenAIRequest)

_WHOLE = frozenset(
    {
        "allowed_token_ids", "best_of", "dimensions", "input", "logprobs", "max_completion_tokens", "max_tokens",
        "min_tokens", "n", "priority", "prompt", "seed", "stop_token_ids", "top_k", "top_logprobs",
    }
)  # fmt: skip
_REFUSED = {
    "chat_template": "a template of the client's own is not run; the model's is, with chat_template_kwargs",
    "functions": "deprecated by OpenAI in favor of tools; send tools",
    "function_call": "deprecated by OpenAI in favor of tool_choice; send tools and tool_choice",
}
_MISSING_FIELD = re.compile(r"missing required field `([^`]+)`")
_FORMATS = ("text", "json_object", "json_schema")


def parse_request(kind: type[_Request], body: dict[str, Any]) -> _Request:
    """Check a body against one of the request types; its fields get the names and numbers of this API in place.

    Args:
        kind: :class:`ChatRequest`, :class:`CompletionRequest` or :class:`EmbeddingRequest`.
        body: The decoded JSON object.

    Returns:
        The request.

    Raises:
        InvalidRequestError: names the field in ``param`` (``messages[0].role``) and what is allowed.
    """
    _normalise(kind, body)
    try:
        request = msgspec.convert(body, kind)
    except msgspec.ValidationError as exc:
        _refuse_misspelt(kind, body)  # "max_token" explains a missing field better than the field does
        raise named_error(exc) from None
    _refuse_misspelt(kind, body)
    if isinstance(request, GenerationRequest):
        _check_generation(request)
    if isinstance(request, ChatRequest):
        _check_chat(request)
    elif isinstance(request, CompletionRequest):
        _check_prompt(request)
    elif isinstance(request, EmbeddingRequest):
        _check_embedding(request)
        if body.get("cache_salt"):
            raise refused("cache_salt", "not supported for embeddings")
    return request


def known_fields(kind: type[OpenAIRequest]) -> frozenset[str]:
    """The fields that a request may carry: those checked here, and those that only engines know."""
    found = _FIELDS.get(kind)
    if found is None:
        found = _FIELDS[kind] = frozenset(kind.__struct_fields__) | PASSED
    return found


_FIELDS: dict[type[OpenAIRequest], frozenset[str]] = {}


def _normalise(kind: type[OpenAIRequest], body: dict[str, Any]) -> None:
    for name in _REFUSED.keys() & body.keys():
        if body[name]:
            raise InvalidRequestError(f"{name}: {_REFUSED[name]}", param=name)
    renamed = resolve_aliases(body)
    if renamed is not body:
        body.clear()
        body.update(renamed)
    for name in _WHOLE & body.keys():
        if type(body[name]) in (float, list):
            body[name] = _whole(body[name])


def _whole(value: Any) -> Any:
    """``3.0`` as ``3``: some languages know one kind of number. So in lists, too; a list of something else stays."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list) and value and isinstance(value[0], float | list):
        return [_whole(item) for item in value]
    return value


def _refuse_misspelt(kind: type[OpenAIRequest], body: dict[str, Any]) -> None:
    if found := similar(body, known_fields(kind)):
        name, meant = found
        raise InvalidRequestError(f"unknown field {name!r}; did you mean {meant!r}?", param=name)


def named_error(exc: msgspec.ValidationError) -> InvalidRequestError:
    """Name the field of a message of msgspec: ``Expected `int` >= 1 - at `$.n``` → ``n: expected `int` >= 1``."""
    text, _, place = str(exc).partition(" - at `")
    param = place.rpartition("$")[2].rstrip("`").removeprefix(".")  # or: key` in `$.metadata
    if missing := _MISSING_FIELD.search(text):
        param = f"{param}.{missing.group(1)}" if param else missing.group(1)
        return InvalidRequestError(f"{param}: this field is required", param=param)
    return InvalidRequestError(f"{param or 'body'}: {text[0].lower()}{text[1:]}", param=param or None)


def _check_generation(request: GenerationRequest) -> None:
    if request.stream_options is not None and not request.stream:
        raise refused("stream_options", "allowed only together with stream: true")
    if request.service_tier is not None and request.service_tier not in TIERS:
        raise refused("service_tier", f"{request.service_tier!r} is not one of {', '.join(TIERS)}")
    limit = request.limit
    if limit is not None and (request.min_tokens or 0) > limit:
        raise refused("min_tokens", f"{request.min_tokens} is more than max_tokens ({limit})")
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stops) > MAX_STOPS:
        raise refused("stop", f"{len(stops)} stop strings; at most {MAX_STOPS} are allowed")
    if "" in stops:
        raise refused("stop", "a stop string must not be empty")
    for token in request.logit_bias or ():
        if not (token.isascii() and token.isdigit()):
            raise refused("logit_bias", f"{token!r} is not a token id; the keys are token ids in digits")


def _check_chat(request: ChatRequest) -> None:
    for index, message in enumerate(request.messages):
        check_message(f"messages[{index}]", message)
    if request.top_logprobs and not request.logprobs:
        raise refused("top_logprobs", "allowed only together with logprobs: true")
    if request.response_format is not None and request.response_format.get("type") not in _FORMATS:
        raise refused("response_format.type", f"must be one of {', '.join(_FORMATS)}")


def _check_prompt(request: CompletionRequest) -> None:
    _check_tokens("prompt", request.prompt)
    choices = request.prompts * (request.n or 1)
    if choices > MAX_CHOICES:
        raise refused("prompt", f"{choices} choices (prompts × n); at most {MAX_CHOICES} are allowed")


def _check_embedding(request: EmbeddingRequest) -> None:
    _check_tokens("input", request.input)
    several = isinstance(request.input, list) and not isinstance(request.input[0], int)
    if several and len(request.input) > MAX_INPUTS:
        raise refused("input", f"{len(request.input)} inputs; at most {MAX_INPUTS} are allowed")
    if request.encoding_format not in (None, "float", "base64"):
        raise refused("encoding_format", f"{request.encoding_format!r} is not one of float, base64")


def _check_tokens(param: str, value: str | list[Any]) -> None:
    """A text, token ids, several texts, or several lists of token ids; nothing empty, nothing mixed."""
    if not value:
        raise refused(param, "must not be empty")
    if isinstance(value, str):
        return
    if any(type(item) is not type(value[0]) for item in value):
        raise refused(
            param, "must be a string, or a list of only strings, only token ids or only lists of them"
        )
    for index, item in enumerate(value):
        if item in ("", []):
            raise refused(f"{param}[{index}]", "must not be empty")
        numbers = item if isinstance(item, list) else [item] if isinstance(item, int) else ()
        if any(not 0 <= number <= _INT32 for number in numbers):
            raise refused(f"{param}[{index}]", "token ids are 0 or more")
