"""The dead list for people: what is behind ``dynamo-tasks dead``."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from dynamo_tasks.config.host.redis_server import key_prefix
from dynamo_tasks.errors import RequestNotFoundError
from dynamo_tasks.store.lanes.lane import connected
from dynamo_tasks.store.ledger.dead import DeadList, DeadRequest, not_dead

__all__ = ["listed", "retried", "shown"]

T = TypeVar("T")


def listed(url: str, namespace: str | None = None) -> list[dict[str, Any]]:
    """All dead requests, or those of one namespace; the oldest first."""
    found = [one for lane in _asked(url, lambda dead: dead.all(namespace)) for one in lane]
    return [_row(one) for one in sorted(found, key=lambda one: one.died)]


def shown(url: str, request_id: str) -> dict[str, Any]:
    """One of them, with its payload.

    Raises:
        RequestNotFoundError: it is in no dead list.
    """
    found = _first(_asked(url, lambda dead: _or_refusal(dead.get(request_id))), request_id)
    return {**_row(found), "payload": _payload(found.message)}


def retried(url: str, request_ids: list[str]) -> None:
    """Queue them again.

    Raises:
        RequestNotFoundError: one is in no dead list; those before it are queued.
    """

    async def retry(dead: DeadList, request_id: str) -> str:
        await dead.retry(request_id)
        return request_id

    for request_id in request_ids:
        _first(_asked(url, lambda dead, one=request_id: _or_refusal(retry(dead, one))), request_id)  # type: ignore[misc]


def _asked(url: str, ask: Callable[[DeadList], Awaitable[T]]) -> list[T]:
    """The answers of all lanes."""

    async def run() -> list[T]:
        async with connected(url, key_prefix()) as lanes:
            return [await ask(DeadList(store)) for store in lanes]

    return asyncio.run(run())


async def _or_refusal(found: Awaitable[T]) -> T | RequestNotFoundError:
    try:
        return await found
    except RequestNotFoundError as refusal:
        return refusal


def _first(answers: list[T | RequestNotFoundError], request_id: str) -> T:
    """The answer of the lane that has it; where none has, what the lane says that knows the request at all."""
    refusals = []
    for answer in answers:
        if not isinstance(answer, RequestNotFoundError):
            return answer
        refusals.append(answer)
    alive = not_dead(request_id)
    raise next((one for one in refusals if one.message == alive.message), refusals[0])


def _row(one: DeadRequest) -> dict[str, Any]:
    record = one.record
    return {
        "id": record.id, "endpoint": record.endpoint, "attempts": record.attempts, "created": record.created,
        "died": one.died, "error": record.error.message if record.error else "",
    }  # fmt: skip


def _payload(message: bytes) -> Any:
    """The argument of a Celery message: ``body`` holds ``[args, kwargs, embed]``."""
    if not message:
        return None
    envelope = msgspec.json.decode(message)
    body = envelope["body"]
    if envelope.get("properties", {}).get("body_encoding") == "base64":
        body = base64.b64decode(body)
    args = msgspec.json.decode(body)[0]
    return args[0] if len(args) == 1 else args
