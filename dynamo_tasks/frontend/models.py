"""Served models: their list, and the one that a request names."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dynamo_tasks.errors import InvalidRequestError, NoInstancesError, UnknownModelError
from dynamo_tasks.frontend.gateway import Gateway, ServedModel
from dynamo_tasks.frontend.http.errors import json_response
from dynamo_tasks.frontend.openai.apis import Api

__all__ = ["ModelsAPI", "find_model"]


class ModelsAPI:
    """The handlers under ``/v1/models``."""

    def __init__(self, gateway: Gateway):
        self._gateway = gateway

    async def all(self, request: Request) -> Response:
        """``GET /v1/models``."""
        served = await self._gateway.models()
        return json_response(
            {"object": "list", "data": [_row(name, served[name]) for name in sorted(served)]}
        )

    async def one(self, request: Request) -> Response:
        """``GET /v1/models/{name}``."""
        name = request.path_params["name"]
        served = await self._gateway.models()
        if name not in served:
            raise _unknown(name, served)
        return json_response(_row(name, served[name]))


def find_model(api: Api, name: str, served: dict[str, ServedModel]) -> ServedModel:
    """The model of a name, if it serves an API.

    Raises:
        UnknownModelError: Nobody serves it.
        NoInstancesError: Nobody serves any.
        InvalidRequestError: It is for something else.
    """
    model = served.get(name)
    if model is None:
        raise _unknown(name, served)
    if api.operation not in model.endpoints:
        offered = ", ".join(sorted(model.endpoints)) or "nothing"
        raise InvalidRequestError(f"model {name!r} serves {offered}, not {api.operation}", param="model")
    if api.base == "chat" and model.card.kind != "chat":
        raise InvalidRequestError(f"model {name!r} is for {model.card.kind}, not chat", param="model")
    return model


def _row(name: str, model: ServedModel) -> dict[str, Any]:
    row = {"id": name, "object": "model", "created": model.created, "owned_by": "dynamo-tasks"}
    if model.card.max_model_len:
        row["max_model_len"] = model.card.max_model_len
    return row


def _unknown(name: str, served: dict[str, ServedModel]) -> UnknownModelError | NoInstancesError:
    if not served:
        return NoInstancesError("no model is served at the moment", retry_after=1)
    known = ", ".join(sorted(served))
    return UnknownModelError(f"model {name!r} is not served; served models: {known}", param="model")
