"""Texts as tokens and back, in the shapes of vLLM's server: ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.frontend.gateway import Gateway, ServedModel, allowed, unknown_model
from dynamo_tasks.frontend.http.errors import encode_parts, json_bytes
from dynamo_tasks.frontend.http_call import call_of, count_call, raw_body
from dynamo_tasks.protocol.http.tokens import parse_detokenize, parse_tokenize

__all__ = ["TokensAPI"]


class TokensAPI:
    """The handlers of ``/tokenize`` and ``/detokenize``; nothing is submitted, but where a Processor is far away."""

    def __init__(self, gateway: Gateway):
        self._gateway = gateway

    async def tokenize(self, request: Request) -> Response:
        """``POST /tokenize``: a prompt or the messages of a chat."""
        return await self._answer(request, parse_tokenize)

    async def detokenize(self, request: Request) -> Response:
        """``POST /detokenize``: a list of token ids."""
        return await self._answer(request, parse_detokenize)

    async def _answer(self, request: Request, parse: Any) -> Response:
        call = call_of(request)
        await count_call(self._gateway, call)
        raw = await raw_body(request)
        served = allowed(call.limits, await self._gateway.models())
        if not served:
            raise unknown_model("", served)
        name, body = await offload(len(raw), parse, raw, _only(served))
        if name not in served:
            raise unknown_model(name, served)
        found = await self._gateway.tokenize(body, served[name])
        return json_bytes(await offload(len(raw), encode_parts, found), request_id=call.request_id)


def _only(served: Mapping[str, ServedModel]) -> str:
    """The model that a body means which names none; empty where there are several."""
    return next(iter(served)) if len(served) == 1 else ""
