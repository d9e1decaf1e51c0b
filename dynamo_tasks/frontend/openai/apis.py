"""HTTP APIs that submit a request: what each makes of its body, and of the stream of the answer.

An :class:`Api` is pure: it reads bodies and shows events. What is the same for all of them, from the count of the
API key to the queue, is :mod:`dynamo_tasks.frontend.generation`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

from msgspec import Struct
from starlette.responses import Response

from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.errors import DynamoError, InvalidRequestError
from dynamo_tasks.frontend.gateway import ServedModel, unknown_model
from dynamo_tasks.frontend.http.errors import error_payload, error_response, json_response
from dynamo_tasks.frontend.http_call import HttpCall
from dynamo_tasks.frontend.openai.collect import Collector, CompletionCollector
from dynamo_tasks.frontend.openai.embeddings import EmbeddingCollector
from dynamo_tasks.frontend.openai.render import CompletionRenderer, Render, Renderer
from dynamo_tasks.frontend.openai.values import FROM_START, Position
from dynamo_tasks.frontend.sse import KEEP_ALIVE
from dynamo_tasks.protocol.http.bodies import decode_object
from dynamo_tasks.protocol.http.openai import (
    OPTIONS,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationRequest,
    OpenAIRequest,
    known_fields,
    parse_request,
)

__all__ = ["Api", "ChatApi", "CompletionsApi", "EmbeddingsApi", "ParsedBody", "Turn", "engine_body"]

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
"""Fields that the frontend reads, of no interest to an engine."""
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
"""Values that say what holds anyway: they ask nothing of an engine, and many SDKs always send them."""


class Turn(Protocol):
    """Something that a request takes before it is submitted, such as the turn of a conversation."""

    async def begin(self) -> None:
        """Take it."""
        ...

    async def give_up(self) -> None:
        """Give it back: the request was not submitted."""
        ...


class ParsedBody(Struct):
    """A body that was read and checked.

    Attributes:
        request: In the words of the API's :attr:`Api.base`.
        body: What the engine gets of it.
        extra: What the API needs to render the answer, encoded by itself; stored in :attr:`Render.extra`.
        document: What the API keeps beside the record, for as long as that; empty = nothing.
        retention: Seconds for which record and stream are kept, where the client does not say it.
        turn: To be begun before the request is submitted, and given up where it is not.
        size: Bytes of the body with what it follows; 0 = of the body alone.
    """

    request: OpenAIRequest
    body: dict[str, Any]
    extra: bytes = b""
    document: bytes = b""
    retention: float | None = None
    turn: Turn | None = None
    size: int = 0


class Api:
    """One HTTP API.

    Attributes:
        name: In paths of the code, in metrics, logs and stored renders.
        base: The API whose bodies its own become: ``chat``, ``completions`` or ``embeddings``.
        operation: The endpoint of a Worker that runs it: ``generate`` or ``embed``.
        needs_start: Whether an event is shown by what came before it: its streams are rendered from the start, whatever
            a client has of them already.
        follows: Whether a body becomes another request by what is stored meanwhile. Then an idempotency key stands for
            the body as it was sent, see :meth:`asked`.
        keep_alive: What a silent stream gets: something that readers skip.
        request_header: The API's own name for ``x-request-id``, if it has one.
        announced: Whether the ends of its background requests are told to webhooks.
    """

    name: str
    base: str
    operation = "generate"
    needs_start = False
    follows = False
    keep_alive = KEEP_ALIVE
    request_header = ""
    announced = False

    async def read(self, raw: bytes, call: HttpCall) -> ParsedBody:
        """Read and check a body; a large one beside the loop.

        Raises:
            InvalidRequestError: names the field, and what is allowed.
        """
        return await offload(len(raw), self.parse, raw)

    def parse(self, raw: bytes) -> ParsedBody:
        """Read and check a body; may be called in a thread. See :meth:`read`."""
        raise NotImplementedError

    def asked(self, raw: bytes) -> GenerationRequest:
        """Read how a body wants to be answered, without what it follows. See :attr:`follows`."""
        raise NotImplementedError

    async def repeated(self, request_id: str, owner_key: str) -> Response | None:
        """The answer that is kept of a request, when its stream is gone; ``None`` where there is none."""
        return None

    def find_model(self, name: str, served: Mapping[str, ServedModel]) -> ServedModel:
        """The model that a body names, if it serves the API.

        Raises:
            UnknownModelError: Nobody serves it.
            NoInstancesError: Nobody serves any.
            InvalidRequestError: It is for something else.
        """
        model = served.get(name)
        if model is None:
            raise unknown_model(name, served)
        if self.operation not in model.endpoints:
            offered = ", ".join(sorted(model.endpoints)) or "nothing"
            raise InvalidRequestError(f"model {name!r} serves {offered}, not {self.operation}", param="model")
        if self.base == "chat" and model.card.kind != "chat":
            raise InvalidRequestError(f"model {name!r} is for {model.card.kind}, not chat", param="model")
        return model

    def reworded(self, error: InvalidRequestError) -> InvalidRequestError:
        """An error about a body in the words of :attr:`base`, by the names of the fields that the client sent."""
        return error

    def render(self, parsed: ParsedBody, payload: dict[str, Any], request_id: str) -> Render | None:
        """Describe, for the record, how any frontend can render the stream; ``None`` = values.

        Args:
            parsed: See :meth:`parse`.
            payload: As it goes to the Worker; its prompt is tokens by now, unless a Processor of its own makes them.
            request_id: Of the request.
        """
        request = parsed.request
        assert isinstance(request, GenerationRequest)
        choices = (request.prompts if isinstance(request, CompletionRequest) else 1) * (request.n or 1)
        return Render(
            self.name,
            request_id,
            request.model,
            int(time.time()),
            request.include_usage,
            choices,
            parsed.extra,
            request.tier,
        )

    def renderer(self, render: Render, known: Position = FROM_START) -> Renderer:
        """Make what renders a stream.

        Args:
            render: As it was stored.
            known: What a client has of it already. Where an API :attr:`needs_start`, its renderer is given all events
                and leaves out what shows those; else it is given what comes after them.
        """
        return CompletionRenderer(render)

    def collector(self, render: Render | None, request: OpenAIRequest) -> Collector:
        """Make what puts a whole stream together as one JSON object."""
        assert render is not None
        return CompletionCollector(render)

    def accepted(self, render: Render | None, request_id: str) -> Response:
        """The answer to a request in the background, whose stream nobody has asked for."""
        location = {"location": f"/v1/requests/{request_id}"}
        return json_response({"id": request_id, "status": "queued"}, 202, request_id, location)

    def error(
        self, status: int, message: str, code: str, param: str | None = None, request_id: str | None = None
    ) -> dict[str, Any]:
        """The JSON object of an error, in the shape that the API's clients know.

        Args:
            status: Of HTTP.
            message: For people.
            code: For programs.
            param: The field at fault.
            request_id: Of the request.
        """
        return error_payload(status, message, code, param)

    def failure(self, error: DynamoError, request_id: str) -> Response:
        """The answer for an error."""
        body = self.error(error.http_status, error.message, error.code, error.param, request_id)
        return error_response(error, request_id, body)


class _Plain(Api):
    """An API whose bodies are the engine's own words."""

    kind: type[OpenAIRequest]

    async def read(self, raw: bytes, call: HttpCall) -> ParsedBody:
        """Read and check a body; a large one beside the loop. See :meth:`Api.read`."""
        return await offload(len(raw), self.parse, raw, call.deployment)

    def parse(self, raw: bytes, deployment: str = "") -> ParsedBody:
        """Read and check a body; ``deployment`` is the model that counts, if the path names one."""
        body = decode_object(raw)
        if deployment:
            body["model"] = deployment
        request = parse_request(self.kind, body)
        return ParsedBody(request, engine_body(request, body))


class ChatApi(_Plain):
    """``POST /v1/chat/completions``."""

    name = base = "chat"
    kind = ChatRequest


class CompletionsApi(_Plain):
    """``POST /v1/completions``."""

    name = base = "completions"
    kind = CompletionRequest


class EmbeddingsApi(_Plain):
    """``POST /v1/embeddings``; its answer is never streamed."""

    name = base = "embeddings"
    operation = "embed"
    kind = EmbeddingRequest

    def render(self, parsed: ParsedBody, payload: dict[str, Any], request_id: str) -> None:
        """Nothing: vectors are values."""

    def collector(self, render: Render | None, request: OpenAIRequest) -> Collector:
        """Make what gathers the vectors."""
        assert isinstance(request, EmbeddingRequest)
        return EmbeddingCollector(request.model, request.encoding_format == "base64")


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
