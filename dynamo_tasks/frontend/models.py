"""Served models, as clients see them."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dynamo_tasks.frontend.gateway import Gateway, ServedModel, unknown_model
from dynamo_tasks.frontend.http.errors import json_response

__all__ = ["ModelsAPI"]


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
            raise unknown_model(name, served)
        return json_response(_row(name, served[name]))


def _row(name: str, model: ServedModel) -> dict[str, Any]:
    row = {"id": name, "object": "model", "created": model.created, "owned_by": "dynamo-tasks"}
    if model.card.max_model_len:
        row["max_model_len"] = model.card.max_model_len
    return row
