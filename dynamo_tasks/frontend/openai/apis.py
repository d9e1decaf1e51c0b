"""HTTP APIs that submit a request: what each makes of its body, and of the stream of the answer.

An :class:`Api` is pure: it reads bodies and shows events. What is the same for all of them, from the count of the
API key to the queue, is :mod:`dynamo_tasks.frontend.generation`.
"""

from __future__ import annotations

import time
from typing import Any

from msgspec import Struct
from starlette.responses import Response

from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.errors import DynamoError
from dynamo_tasks.frontend.call import HttpCall
from dynamo_tasks.frontend.http.errors import error_response
from dynamo_tasks.frontend.openai.collect import Collector, CompletionCollector
from dynamo_tasks.frontend.openai.embeddings import EmbeddingCollector
from dynamo_tasks.frontend.openai.payload import engine_body
from dynamo_tasks.frontend.openai.render import CompletionRenderer, Render, Renderer
from dynamo_tasks.protocol.http.bodies import decode_object
from dynamo_tasks.protocol.http.openai import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationRequest,
    OpenAIRequest,
    parse_request,
)

__all__ = ["Api", "ChatApi", "CompletionsApi", "EmbeddingsApi", "ParsedBody"]


class ParsedBody(Struct):
    """A body that was read and checked.

    Attributes:
        request: In the words of the API's :attr:`Api.base`.
        body: What the engine gets of it.
        extra: What the API needs to render the answer, encoded by itself; stored in :attr:`Render.extra`.
    """

    request: OpenAIRequest
    body: dict[str, Any]
    extra: bytes = b""


class Api:
    """One HTTP API.

    Attributes:
        name: In paths of the code, in metrics, logs and stored renders.
        base: The API whose bodies its own become: ``chat``, ``completions`` or ``embeddings``.
        operation: The endpoint of a Worker that runs it: ``generate`` or ``embed``.
    """

    name: str
    base: str
    operation = "generate"

    async def read(self, raw: bytes, call: HttpCall) -> ParsedBody:
        """Read and check a body; a large one beside the loop.

        Raises:
            InvalidRequestError: names the field, and what is allowed.
        """
        return await offload(len(raw), self.parse, raw)

    def parse(self, raw: bytes) -> ParsedBody:
        """Read and check a body; may be called in a thread. See :meth:`read`."""
        raise NotImplementedError

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

    def renderer(self, render: Render) -> Renderer:
        """Make what renders a stream, from its first event on."""
        return CompletionRenderer(render)

    def collector(self, render: Render | None, request: OpenAIRequest) -> Collector:
        """Make what puts a whole stream together as one JSON object."""
        assert render is not None
        return CompletionCollector(render)

    def failure(self, error: DynamoError, request_id: str) -> Response:
        """The answer for an error, in the shape that the API's clients know."""
        return error_response(error, request_id)


class _Plain(Api):
    """An API whose bodies are the engine's own words."""

    kind: type[OpenAIRequest]

    def parse(self, raw: bytes) -> ParsedBody:
        body = decode_object(raw)
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
