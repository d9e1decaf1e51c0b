"""Served models, as clients see them."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.frontend.gateway import Gateway, ServedModel, allowed, unknown_model
from dynamo_tasks.frontend.http.errors import json_response
from dynamo_tasks.frontend.http_call import call_of
from dynamo_tasks.protocol.instances import InstanceInfo

__all__ = ["OPERATIONS", "ModelsAPI", "check_images", "served_models"]

OPERATIONS = frozenset({"generate", "embed"})
"""Endpoints that serve a model."""


class ModelsAPI:
    """The handlers under ``/v1/models``."""

    def __init__(self, gateway: Gateway):
        self._gateway = gateway

    async def all(self, request: Request) -> Response:
        """``GET /v1/models``."""
        served = allowed(call_of(request).limits, await self._gateway.models())
        row, whole = _shape(request)
        return json_response(whole([row(name, served[name]) for name in sorted(served)]))

    async def one(self, request: Request) -> Response:
        """``GET /v1/models/{name}``."""
        name = request.path_params["name"]
        served = allowed(call_of(request).limits, await self._gateway.models())
        if name not in served:
            raise unknown_model(name, served)
        row, _ = _shape(request)
        return json_response(row(name, served[name]))


def check_images(places: list[str], model: ServedModel, served: dict[str, ServedModel]) -> None:
    """Refuse images that a model does not take.

    Args:
        places: Their parts: ``messages[0].content[1]``.
        model: The model that was named.
        served: All of them.

    Raises:
        InvalidRequestError: It takes none; names those that do. Or not so many.
    """
    name, most = model.card.name, model.card.images
    if not most:
        others = ", ".join(sorted(other for other, one in served.items() if one.card.images))
        hint = f"models that take images: {others}" if others else "no model that is served takes images"
        param = f"{places[0]}.type"
        raise InvalidRequestError(f"{param}: model {name!r} takes text alone; {hint}", param=param)
    if len(places) > most:
        raise InvalidRequestError(
            f"messages: {len(places)} images; model {name!r} takes at most {most}", param=places[most]
        )


def _row(name: str, model: ServedModel) -> dict[str, Any]:
    row = {"id": name, "object": "model", "created": model.created, "owned_by": "dynamo-tasks"}
    if model.card.max_model_len:
        row["max_model_len"] = model.card.max_model_len
    if model.card.images:
        row["input_modalities"] = ["text", "image"]
    if model.state:
        row["state"] = model.state
    return row


def _list(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": rows}


def _anthropic_row(name: str, model: ServedModel) -> dict[str, Any]:
    """One model as https://docs.claude.com/en/api/models-list has it; made when its first worker started."""
    created = datetime.datetime.fromtimestamp(model.created, datetime.UTC)
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": model.card.max_model_len or None,
        "max_tokens": model.card.max_model_len or None,
    }


def _anthropic_list(rows: list[dict[str, Any]]) -> dict[str, Any]:
    first, last = (rows[0]["id"], rows[-1]["id"]) if rows else (None, None)
    return {"data": rows, "has_more": False, "first_id": first, "last_id": last}


def _shape(request: Request) -> tuple[Callable[..., dict[str, Any]], Callable[..., dict[str, Any]]]:
    """Choose the shape of a model and of a list of them: every client of the Messages API names its version."""
    return (_anthropic_row, _anthropic_list) if "anthropic-version" in request.headers else (_row, _list)


def served_models(
    instances: list[InstanceInfo], state: Callable[[InstanceInfo], str] = lambda info: ""
) -> dict[str, ServedModel]:
    """Every name that an instance's model card offers, adapters included.

    Args:
        instances: Registrations.
        state: Of the model of one.
    """
    found: dict[str, ServedModel] = {}
    for info in instances:
        if info.model is None or info.endpoint not in OPERATIONS:
            continue
        for name in (info.model.name, *info.model.adapters):
            card = info.model if name == info.model.name else msgspec.structs.replace(info.model, name=name)
            model = found.setdefault(name, ServedModel(card, int(info.started), {}, state(info)))
            model.endpoints.setdefault(info.endpoint, info.id)
    return found
