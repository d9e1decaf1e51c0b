"""OpenAI's API: chat completions, completions, embeddings, models."""

from __future__ import annotations

import array
import base64
import math
import sys
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from dynamo_tasks.errors import EndpointError, InvalidRequestError, NoInstancesError, UnknownModelError
from dynamo_tasks.frontend.call import Call, call_of, json_body
from dynamo_tasks.frontend.collect import CollectedResponse, CompletionCollector, ValueCollector
from dynamo_tasks.frontend.errors import json_response
from dynamo_tasks.frontend.gateway import EventStream, Gateway, ServedModel, Submission
from dynamo_tasks.frontend.payload import engine_body
from dynamo_tasks.frontend.render import CompletionRenderer, Render, usage_of
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.frontend.sse import EventStreamResponse
from dynamo_tasks.protocol.events import End
from dynamo_tasks.protocol.openai import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationRequest,
    OpenAIRequest,
    parse_request,
)
from dynamo_tasks.protocol.trace import TRACE_HEADERS

__all__ = ["IDEMPOTENCY_HEADER", "TIMEOUT_HEADER", "OpenAIAPI"]

IDEMPOTENCY_HEADER = "idempotency-key"
"""The same key with the same body gives the same request, once."""

TIMEOUT_HEADER = "x-request-timeout"
"""Seconds by which the request must have ended."""

_IDEMPOTENCY_LIMIT = 255


class OpenAIAPI:
    """The handlers; each takes a request and returns an ASGI response."""

    def __init__(self, gateway: Gateway, settings: FrontendSettings):
        self._gateway = gateway
        self._settings = settings

    async def chat(self, request: Request) -> ASGIApp:
        """``POST /v1/chat/completions``."""
        return await self._generate("chat", ChatRequest, request)

    async def completions(self, request: Request) -> ASGIApp:
        """``POST /v1/completions``."""
        return await self._generate("completions", CompletionRequest, request)

    async def embeddings(self, request: Request) -> ASGIApp:
        """``POST /v1/embeddings``."""
        body = await json_body(request)
        asked = parse_request(EmbeddingRequest, body)
        model = await self._model(asked, "embed", call_of(request))
        submission = self._submission("embeddings", "embed", asked, body, model, request)
        stream = await self._submit(submission, call_of(request))
        collector = EmbeddingCollector(asked.model, asked.encoding_format == "base64")
        return CollectedResponse(stream, collector, api="embeddings", meter=call_of(request).meter)

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``."""
        served = await self._gateway.models()
        return json_response({"object": "list", "data": [_model_row(*item) for item in _by_name(served)]})

    async def model(self, request: Request) -> Response:
        """``GET /v1/models/{name}``."""
        name = request.path_params["name"]
        served = await self._gateway.models()
        if name not in served:
            raise _unknown(name, served)
        return json_response(_model_row(name, served[name]))

    async def _generate(self, api: str, kind: type[GenerationRequest], request: Request) -> ASGIApp:
        call = call_of(request)
        body = await json_body(request)
        asked = parse_request(kind, body)
        model = await self._model(asked, "generate", call)
        if api == "chat" and model.card.kind != "chat":
            raise InvalidRequestError(
                f"model {asked.model!r} is for {model.card.kind}, not chat", param="model"
            )
        submission = self._submission(api, "generate", asked, body, model, request)
        render = Render(
            api, call.request_id, asked.model, int(time.time()), asked.include_usage, asked.n or 1
        )
        submission.render = render.encode()
        submission.background = bool(asked.background)
        submission.abandon_after = asked.abandon_after
        submission.retention = asked.retention
        stream = await self._submit(submission, call)
        return self._answer(api, asked, stream, render, call)

    async def _submit(self, submission: Submission, call: Call) -> EventStream:
        try:
            return await self._gateway.submit(submission)
        finally:
            call.headers = submission.rate_headers

    def _answer(
        self, api: str, asked: GenerationRequest, stream: EventStream, render: Render, call: Call
    ) -> ASGIApp:
        if asked.background and not asked.stream:
            stream.close()
            return _accepted(stream.request_id)
        if stream.render is not None and stream.request_id != call.request_id:
            # An idempotent repetition: the first one's id and time.
            render = Render.decode(stream.render, stream.request_id)
        if not asked.stream:
            return CollectedResponse(stream, CompletionCollector(render), api=api, meter=call.meter)
        return EventStreamResponse(
            stream,
            CompletionRenderer(render),
            api=api,
            keep_alive=self._settings.keep_alive,
            header_delay=self._settings.header_delay,
            meter=call.meter,
        )

    def _submission(
        self,
        api: str,
        operation: str,
        asked: OpenAIRequest,
        body: dict[str, Any],
        model: ServedModel,
        request: Request,
    ) -> Submission:
        call = call_of(request)
        return Submission(
            endpoint=model.endpoints[operation],
            payload=self._gateway.prepare(api, engine_body(asked, body), model),
            request_id=call.request_id,
            tenant=call.owner_key,
            owner_key=call.owner_key,
            idempotency_key=_idempotency_key(request),
            deadline=asked.timeout or _timeout(request),
            priority=asked.priority or 0,
            limits=call.limits,
            headers={name: request.headers[name] for name in TRACE_HEADERS if name in request.headers},
        )

    async def _model(self, asked: OpenAIRequest, operation: str, call: Call) -> ServedModel:
        served = await self._gateway.models()
        model = served.get(asked.model)
        if model is None:
            raise _unknown(asked.model, served)
        if operation not in model.endpoints:
            offered = ", ".join(sorted(model.endpoints)) or "nothing"
            raise InvalidRequestError(
                f"model {asked.model!r} serves {offered}, not {operation}", param="model"
            )
        if call.meter is not None:
            call.meter.model = asked.model
        return model


class EmbeddingCollector(ValueCollector):
    """The ``list`` object of an embeddings answer.

    The endpoint gives its vectors as a list, or ``{"embeddings": [...], "prompt_tokens": 3}``.
    """

    def __init__(self, model: str, base64_floats: bool):
        """Make it.

        Args:
            model: As the client named it.
            base64_floats: Whether vectors are sent as base64 of little-endian float32.
        """
        super().__init__()
        self._model = model
        self._base64 = base64_floats

    def body(self, end: End) -> dict[str, Any]:
        """The vectors, in the order of the inputs."""
        usage, vectors = end.usage, []
        for value in self.values(end):
            if isinstance(value, dict):
                usage = usage or value.get("usage") or {"prompt_tokens": value.get("prompt_tokens") or 0}
                value = value.get("embeddings")
            vectors += _vectors(value)
        self.usage = usage
        rows = [
            {"object": "embedding", "index": index, "embedding": self._encoded(vector)}
            for index, vector in enumerate(vectors)
        ]
        counts = usage_of(usage)
        short = {name: counts[name] for name in ("prompt_tokens", "total_tokens")}
        return {"object": "list", "data": rows, "model": self._model, "usage": short}

    def _encoded(self, vector: list[float]) -> list[float] | str:
        if not self._base64:
            return vector
        floats = array.array("f", vector)
        if sys.byteorder == "big":
            floats.byteswap()
        return base64.b64encode(floats.tobytes()).decode()


def _vectors(value: Any) -> list[list[float]]:
    if not isinstance(value, list) or not value:
        raise EndpointError("the endpoint returned no list of vectors")
    return value if isinstance(value[0], list) else [value]


def _by_name(served: dict[str, ServedModel]) -> list[tuple[str, ServedModel]]:
    """Models by name."""
    return sorted(served.items(), key=lambda item: item[0])


def _model_row(name: str, model: ServedModel) -> dict[str, Any]:
    row = {"id": name, "object": "model", "created": model.created, "owned_by": "dynamo-tasks"}
    if model.card.max_model_len:
        row["max_model_len"] = model.card.max_model_len
    return row


def _unknown(name: str, served: dict[str, ServedModel]) -> UnknownModelError | NoInstancesError:
    if not served:
        return NoInstancesError("no model is served at the moment", retry_after=1)
    known = ", ".join(sorted(served))
    return UnknownModelError(f"model {name!r} is not served; served models: {known}", param="model")


def _timeout(request: Request) -> float | None:
    """Seconds by which the request must have ended, for clients that can't put ``timeout`` into the body."""
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise InvalidRequestError(
            f"the header X-Request-Timeout must be a number of seconds above 0, not {text!r}",
            param=TIMEOUT_HEADER,
        )
    return seconds


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is not None and not 0 < len(key) <= _IDEMPOTENCY_LIMIT:
        raise InvalidRequestError(
            f"the header Idempotency-Key must have 1 to {_IDEMPOTENCY_LIMIT} characters, not {len(key)}",
            param=IDEMPOTENCY_HEADER,
        )
    return key


def _accepted(request_id: str) -> Response:
    location = {"location": f"/v1/requests/{request_id}"}
    return json_response({"id": request_id, "status": "queued"}, 202, request_id, location)
