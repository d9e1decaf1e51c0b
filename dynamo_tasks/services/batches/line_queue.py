"""The lines of a batch in the queue: each is a request, whose id follows from its batch and its number."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.errors import (
    DynamoError,
    InvalidRequestError,
    QueueFullError,
    RateLimitError,
    RequestFailedError,
    UnavailableError,
    UnknownModelError,
)
from dynamo_tasks.frontend.generation import Generation
from dynamo_tasks.frontend.http.errors import encode_parts, error_body
from dynamo_tasks.frontend.http_call import HttpCall
from dynamo_tasks.frontend.openai.apis import Api
from dynamo_tasks.frontend.openai.render import Render
from dynamo_tasks.protocol.events import End, Kind
from dynamo_tasks.protocol.http.limits import KeyLimits
from dynamo_tasks.protocol.http.openai import OpenAIRequest
from dynamo_tasks.protocol.options import LAST_PRIORITY
from dynamo_tasks.protocol.states import TERMINAL, State
from dynamo_tasks.services.gateway import RuntimeGateway
from dynamo_tasks.store.client import StoreClient
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.ledger.ledger import cancelled
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.streams.at_rest import read_all

__all__ = ["LATER", "LineAnswer", "LineQueue", "line_id"]

LATER = (UnavailableError, QueueFullError, RateLimitError, UnknownModelError)
"""Errors after which a line waits for its turn: its batch has named a model that was served."""
_RETENTION = 6 * 3600.0
"""Seconds for which an answer is kept that nobody has gathered; once gathered, it is erased."""
_BARE = 60.0
"""Seconds for which the bare record of a line that was gathered stays: another run, which does not know of that yet,
finds it ended."""
_BESIDE = 128
_NOBODY = OpenAIRequest(model="")
"""Where a render says all, the body is not read again."""


class LineAnswer(Struct, frozen=True):
    """The answer to a line.

    Attributes:
        status: As of HTTP.
        body: JSON.
        tokens: Of the prompt, of these cached, of the answer.
    """

    status: int
    body: bytes
    tokens: tuple[int, int, int] = (0, 0, 0)


def line_id(batch_id: str, number: int, again: int = 0) -> str:
    """The id of the request that is a line of a batch.

    Args:
        batch_id: Of the batch.
        number: Of the line, from 1.
        again: How often its answer was lost before anybody had gathered it.
    """
    return str(uuid.uuid5(uuid.UUID(batch_id.removeprefix("batch_")), f"line {number} {again}"))


class LineQueue:
    """Puts lines into the queue and gathers their answers.

    Args:
        client: Redis.
        gateway: The way to the queue.
        generation: The one way in.
        api: That the lines are for.
        owner: Hash of the API key whose batch it is.
        limits_of: What the API key of an owner may.
    """

    def __init__(
        self,
        client: StoreClient,
        gateway: RuntimeGateway,
        generation: Generation,
        api: Api,
        owner: str,
        limits_of: Callable[[str], Awaitable[KeyLimits]],
    ):
        self._limits_of = limits_of
        self._limits: KeyLimits | None = None
        self._client = client
        self._gateway = gateway
        self._generation = generation
        self._api = api
        self._owner = owner
        self._namespace = gateway.namespace_of(api.base)

    async def put(self, request_id: str, body: bytes) -> LineAnswer | None:
        """Queue a line, behind everybody else; returns the answer at once where it is refused. Safe to repeat.

        Raises:
            DynamoError: One of :data:`LATER`.
        """
        if self._limits is None:
            self._limits = await self._limits_of(self._owner)
        call = HttpCall(request_id, owner_key=self._owner, limits=self._limits)
        try:
            prepared = await self._generation.prepare(self._api, body, call, {})
            if prepared.turn is not None:
                raise InvalidRequestError(
                    "conversation: lines of a batch take no turns in one", param="conversation"
                )
        except LATER:
            raise
        except DynamoError as exc:
            return LineAnswer(exc.http_status, msgspec.json.encode(error_body(exc)))
        submission = prepared.submission
        # Behind everybody else, and interrupted for them: nobody waits for a line.
        submission.options = msgspec.structs.replace(
            submission.options, priority=LAST_PRIORITY, preemptible=True, background=True, retention=_RETENTION,
            deadline=0.0,
        )  # fmt: skip
        # What its key can never pay for must not be tried again and again.
        hopeless = submission.account.hopeless() if submission.account is not None else None
        if hopeless is not None:
            return LineAnswer(hopeless.http_status, msgspec.json.encode(error_body(hopeless)))
        try:
            await self._gateway.enqueue(submission)
        except RateLimitError:
            self._limits = None  # until it is tried again its key may have been given more
            raise
        return None

    async def states(self, request_ids: Sequence[str]) -> dict[str, State | None]:
        """The states of requests that have ended, ``None`` of such that nobody knows; others are left out."""
        keys = self._client.store.keys(self._namespace)
        wire = await self._client.store.commands.wire(5.0)
        replies = await wire.ask([("HGET", keys.record(one), Field.STATE) for one in request_ids])
        found = {
            one: State(raw.decode()) if raw else None for one, raw in zip(request_ids, replies, strict=True)
        }
        return {one: state for one, state in found.items() if state is None or state in TERMINAL}

    async def answer(self, request_id: str, body: bytes) -> LineAnswer | None:
        """The answer to a line that has ended; ``None`` where it is lost: past its retention, or purged by somebody.

        Args:
            request_id: Of the line.
            body: Of the line, in case its answer was refused.
        """
        events = await read_all(self._client.store, self._namespace, request_id)
        if not events or events[-1].kind != Kind.END:
            return await self._without_stream(request_id)
        end = await offload(len(events[-1].data), End.decode_in_parts, events[-1].data)
        error = end.failure()
        if error is not None:
            return _failed(error)
        record = await self._client.ledger.get(request_id, self._namespace)
        render = Render.decode(record.render, request_id) if record.render else None
        collector = self._api.collector(render, await self._request(body) if render is None else _NOBODY)
        for event in events:
            if event.kind not in (Kind.CLAIM, Kind.END):
                collector.take(event)
        raw = await offload(collector.size(end), lambda: encode_parts(collector.body(end)))
        usage = collector.usage or {}
        names = ("prompt_tokens", "cached_tokens", "completion_tokens")
        prompt, cached, answer = (int(usage.get(name) or 0) for name in names)
        return LineAnswer(200, raw, (prompt, cached, answer))

    async def _request(self, body: bytes) -> OpenAIRequest:
        return (await self._api.read(body, HttpCall("", owner_key=self._owner))).request

    async def _without_stream(self, request_id: str) -> LineAnswer | None:
        record = await self._client.ledger.get(request_id, self._namespace)
        if record.state is State.SUCCEEDED or record.purged:
            return None
        return _failed(record.error.exception() if record.error else RequestFailedError())

    async def cancel(self, request_ids: Iterable[str]) -> None:
        """End requests that have not ended."""
        end = cancelled("cancelled", "its batch has ended")

        async def one(request_id: str) -> None:
            await self._client.ledger.cancel(self._namespace, request_id, end=end)

        await _beside(one, list(request_ids))

    async def purge(self, request_ids: Iterable[str]) -> None:
        """Erase what was gathered."""

        async def one(request_id: str) -> None:
            with contained("ledger", request_id):
                await self._client.ledger.upkeep.purge(self._namespace, request_id, _BARE)

        await _beside(one, list(request_ids))


async def _beside(act: Any, ids: list[str]) -> None:
    for at in range(0, len(ids), _BESIDE):
        await asyncio.gather(*map(act, ids[at : at + _BESIDE]))


def _failed(error: DynamoError) -> LineAnswer:
    return LineAnswer(error.http_status, msgspec.json.encode(error_body(error)))
