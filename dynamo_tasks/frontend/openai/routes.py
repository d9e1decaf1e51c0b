"""OpenAI's API: chat completions, completions, embeddings, models."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.errors import (
    InvalidRequestError,
    NoInstancesError,
    ServerUnavailableError,
    UnknownModelError,
)
from dynamo_tasks.frontend.call import HttpCall, call_of, raw_body
from dynamo_tasks.frontend.gateway import EventStream, Gateway, ServedModel, Submission
from dynamo_tasks.frontend.http.errors import json_response
from dynamo_tasks.frontend.openai.collect import CollectedResponse, CompletionCollector
from dynamo_tasks.frontend.openai.embeddings import EmbeddingCollector
from dynamo_tasks.frontend.openai.payload import engine_body
from dynamo_tasks.frontend.openai.render import CompletionRenderer, Render
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.frontend.sse import EventStreamResponse
from dynamo_tasks.protocol.http.bodies import decode_object
from dynamo_tasks.protocol.http.openai import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationRequest,
    OpenAIRequest,
    parse_request,
)
from dynamo_tasks.protocol.options import RequestOptions
from dynamo_tasks.protocol.trace import TRACE_HEADERS

__all__ = ["IDEMPOTENCY_HEADER", "TIMEOUT_HEADER", "OpenAIAPI"]

IDEMPOTENCY_HEADER = "idempotency-key"
"""The same key with the same body gives the same request, once."""

TIMEOUT_HEADER = "x-request-timeout"
"""Seconds by which the request must have ended."""

_IDEMPOTENCY_LIMIT = 255
_LONGEST = 10**9
_SURE = 5.0
"""Seconds for which a place that a request took is its own, whether it is submitted or not; the server waits for 10."""
_OPERATIONS = {"chat": "generate", "completions": "generate", "embeddings": "embed"}


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
        call = call_of(request)
        async with self._counted("embeddings", call):
            asked, submission = await self._read("embeddings", EmbeddingRequest, request)
            stream = await self._submit("embeddings", submission, call)
        assert isinstance(asked, EmbeddingRequest)
        collector = EmbeddingCollector(asked.model, asked.encoding_format == "base64")
        return CollectedResponse(stream, collector, api="embeddings", meter=call.meter)

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
        async with self._counted(api, call):
            asked, submission = await self._read(api, kind, request)
            assert isinstance(asked, GenerationRequest)
            render = _render(api, call, asked)
            submission.render = render.encode()
            stream = await self._submit(api, submission, call)
        return self._answer(api, asked, stream, render, call)

    @contextlib.asynccontextmanager
    async def _counted(self, api: str, call: HttpCall) -> AsyncIterator[None]:
        """Count a request for its API key before anything of it is read; it has its place until it ends.

        Raises:
            RateLimitError: The API key is at a limit of its own.
        """
        if not call.limits.counted:
            yield
            return
        await self._count(api, call)
        try:
            yield
        except ServerUnavailableError:
            raise  # it may have been submitted
        except BaseException:
            await self._gateway.withdraw(api, call.request_id, call.owner_key, call.limits)
            raise

    async def _count(self, api: str, call: HttpCall) -> None:
        allowance = await self._gateway.admit(api, call.request_id, call.owner_key, call.limits)
        call.counted_at = time.monotonic()
        call.headers = allowance.headers()
        allowance.check()

    async def _submit(self, api: str, submission: Submission, call: HttpCall) -> EventStream:
        if call.counted_at and time.monotonic() - call.counted_at > _SURE:
            await self._count(api, call)  # its body took long: the place may be another's by now
        stream = await self._gateway.submit(submission)
        if call.limits.counted and stream.request_id != call.request_id:  # an idempotent repetition
            await self._gateway.withdraw(api, call.request_id, call.owner_key, call.limits)
        return stream

    async def _read(
        self, api: str, kind: type[OpenAIRequest], request: Request
    ) -> tuple[OpenAIRequest, Submission]:
        """Read and check a request, and prepare it for the queue; a large one beside the loop."""
        raw = await raw_body(request)
        served = await self._gateway.models()
        asked, body, model = await offload(len(raw), self._parse, api, kind, raw, served)
        call = call_of(request)
        if call.meter is not None:
            call.meter.model = asked.model
        payload = await offload(len(raw), self._gateway.prepare, api, body, model)
        submission = self._submission(api, asked, payload, model, request)
        submission.size = len(raw)
        return asked, submission

    def _parse(
        self, api: str, kind: type[OpenAIRequest], raw: bytes, served: dict[str, ServedModel]
    ) -> tuple[OpenAIRequest, dict[str, Any], ServedModel]:
        body = decode_object(raw)
        asked = parse_request(kind, body)
        model = _model(api, asked, served)
        return asked, engine_body(asked, body), model

    def _answer(
        self, api: str, asked: GenerationRequest, stream: EventStream, render: Render, call: HttpCall
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
        self, api: str, asked: OpenAIRequest, payload: dict[str, Any], model: ServedModel, request: Request
    ) -> Submission:
        call = call_of(request)
        return Submission(
            endpoint=model.endpoints[_OPERATIONS[api]],
            payload=payload,
            request_id=call.request_id,
            options=self._options(asked, call, request),
            owner_key=call.owner_key,
            headers={name: request.headers[name] for name in TRACE_HEADERS if name in request.headers},
        )

    def _options(self, asked: OpenAIRequest, call: HttpCall, request: Request) -> RequestOptions:
        chosen = asked.options()
        if "timeout" not in chosen:
            chosen |= _timeout(request)
        self._settings.check(chosen)
        timeout = chosen.pop("timeout", None)
        return RequestOptions(
            deadline=time.time() + timeout if timeout else 0.0,
            ignore_result=True,
            idempotency_key=_idempotency_key(request),
            tenant=call.owner_key,
            weight=call.limits.weight,
            **chosen,
        )


def _render(api: str, call: HttpCall, asked: GenerationRequest) -> Render:
    prompts = asked.prompts if isinstance(asked, CompletionRequest) else 1
    choices = prompts * (asked.n or 1)
    return Render(api, call.request_id, asked.model, int(time.time()), asked.include_usage, choices)


def _model(api: str, asked: OpenAIRequest, served: dict[str, ServedModel]) -> ServedModel:
    """The model that a request names, if it serves that."""
    model, operation = served.get(asked.model), _OPERATIONS[api]
    if model is None:
        raise _unknown(asked.model, served)
    if operation not in model.endpoints:
        offered = ", ".join(sorted(model.endpoints)) or "nothing"
        raise InvalidRequestError(f"model {asked.model!r} serves {offered}, not {operation}", param="model")
    if api == "chat" and model.card.kind != "chat":
        raise InvalidRequestError(f"model {asked.model!r} is for {model.card.kind}, not chat", param="model")
    return model


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


def _timeout(request: Request) -> dict[str, float]:
    """The header of clients that can't put ``timeout`` into the body, as if they had."""
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return {}
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST:
        raise InvalidRequestError(
            f"the header X-Request-Timeout must be a number of seconds above 0, not {text!r:.60}",
            param=TIMEOUT_HEADER,
        )
    return {"timeout": seconds}


def _idempotency_key(request: Request) -> str:
    key: str | None = request.headers.get(IDEMPOTENCY_HEADER)
    if key is None:
        return ""
    if not 0 < len(key) <= _IDEMPOTENCY_LIMIT:
        raise InvalidRequestError(
            f"the header Idempotency-Key must have 1 to {_IDEMPOTENCY_LIMIT} characters, not {len(key)}",
            param=IDEMPOTENCY_HEADER,
        )
    return key


def _accepted(request_id: str) -> Response:
    location = {"location": f"/v1/requests/{request_id}"}
    return json_response({"id": request_id, "status": "queued"}, 202, request_id, location)
