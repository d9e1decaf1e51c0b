"""The dead list for people: what is behind ``dynamo-tasks dead``."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from dynamo_tasks.config.host.redis_server import key_prefix
from dynamo_tasks.store.ledger.dead import DeadList, DeadRequest
from dynamo_tasks.store.redis.server import Store

__all__ = ["listed", "retried", "shown"]

T = TypeVar("T")


def listed(url: str, namespace: str | None = None) -> list[dict[str, Any]]:
    """All dead requests, or those of one namespace; the oldest first."""
    return [_row(one) for one in _asked(url, lambda dead: dead.all(namespace))]


def shown(url: str, request_id: str) -> dict[str, Any]:
    """One of them, with its payload.

    Raises:
        RequestNotFoundError: it is in no dead list.
    """
    found = _asked(url, lambda dead: dead.get(request_id))
    return {**_row(found), "payload": _payload(found.message)}


def retried(url: str, request_ids: list[str]) -> None:
    """Queue them again.

    Raises:
        RequestNotFoundError: one is in no dead list; those before it are queued.
    """

    async def retry(dead: DeadList) -> None:
        for request_id in request_ids:
            await dead.retry(request_id)

    _asked(url, retry)


def _asked(url: str, ask: Callable[[DeadList], Awaitable[T]]) -> T:
    async def run() -> T:
        store = await Store.connect(url, prefix=key_prefix())
        try:
            return await ask(DeadList(store))
        finally:
            await store.close()

    return asyncio.run(run())


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
