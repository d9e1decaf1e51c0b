"""The handlers under ``/v1/batches``: OpenAI's Batch API. What runs a batch is the service ``Background``."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import suppress

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dynamo_tasks.errors import (
    IdempotencyConflictError,
    InvalidRequestError,
    NoInstancesError,
    ObjectConflictError,
    ObjectNotFoundError,
)
from dynamo_tasks.files.library import Files
from dynamo_tasks.frontend.batches.records import (
    BATCH,
    ENDED,
    KEPT,
    OPEN_BATCH,
    SYSTEM,
    BatchData,
    OpenBatch,
    new_batch_id,
    run_id,
    shown_batch,
)
from dynamo_tasks.frontend.gateway import Gateway, Submission
from dynamo_tasks.frontend.http.errors import json_response
from dynamo_tasks.frontend.http.query import page_query
from dynamo_tasks.frontend.http_call import call_of, count_call, raw_body
from dynamo_tasks.frontend.settings import idempotency_key
from dynamo_tasks.protocol.http.batches import BatchRequest, parse_batch
from dynamo_tasks.protocol.http.bodies import decode_object
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.options import RequestOptions
from dynamo_tasks.store.objects import Objects

__all__ = ["BatchesAPI", "submit_run"]


async def submit_run(gateway: Gateway, endpoint: EndpointId, batch_id: str, number: int) -> None:
    """Queue a run of a batch. Safe to repeat.

    Args:
        gateway: The way to the queue.
        endpoint: ``Background.run_batch``.
        batch_id: Which batch.
        number: Of the run.
    """
    options = RequestOptions(background=True, ignore_result=True)
    await gateway.enqueue(Submission(endpoint, {"batch": batch_id}, run_id(batch_id, number), options))


class BatchesAPI:
    """OpenAI's Batch API.

    Args:
        objects: Where batches are known.
        files: Their inputs and outputs.
        gateway: The way to the queue.
        runner: The endpoint that runs them, ``Background.run_batch``.
        endpoints: Paths that batches can be for.
        most: Bytes that an input file may have.
    """

    def __init__(
        self,
        objects: Objects,
        files: Files,
        gateway: Gateway,
        runner: EndpointId,
        endpoints: Collection[str],
        most: int,
    ):
        self._objects = objects
        self._files = files
        self._gateway = gateway
        self._runner = runner
        self._endpoints = endpoints
        self._most = most

    def routes(self) -> list[Route]:
        """Its paths."""
        return [
            Route("/v1/batches", self.all, methods=["GET", "POST"], name="batches"),
            Route("/v1/batches/{id}", self.one, name="batches"),
            Route("/v1/batches/{id}/cancel", self.cancel, methods=["POST"], name="batches"),
        ]

    async def all(self, request: Request) -> Response:
        """``GET`` and ``POST /v1/batches``."""
        return await (self.create(request) if request.method == "POST" else self.list(request))

    async def create(self, request: Request) -> Response:
        """``POST /v1/batches``; its input is read later: what is wrong there makes it ``failed``."""
        call = call_of(request)
        await count_call(self._gateway, call)
        asked = parse_batch(decode_object(await raw_body(request)), self._endpoints)
        batch_id = new_batch_id(call.owner_key, idempotency_key(request.headers))
        with suppress(ObjectNotFoundError):
            return await self._repeated(batch_id, call.owner_key, asked)
        await self._check_input(asked.input_file_id, call.owner_key)
        if not await self._gateway.serves(self._runner):
            raise NoInstancesError(
                f"nobody runs batches now: no instance serves {self._runner}", retry_after=1.0
            )
        # Before the batch: so one that is known is always run.
        await self._objects.create(OPEN_BATCH, batch_id, SYSTEM, OpenBatch(), ttl=KEPT)
        data = BatchData(msgspec.to_builtins(asked), asked.window)
        try:
            batch = await self._objects.create(BATCH, batch_id, call.owner_key, data, ttl=KEPT)
        except ObjectConflictError:  # the same at the same time
            return await self._repeated(batch_id, call.owner_key, asked)
        await submit_run(self._gateway, self._runner, batch_id, 0)
        return json_response(shown_batch(batch))

    async def _repeated(self, batch_id: str, owner: str, asked: BatchRequest) -> Response:
        """The batch that an idempotency key stands for already."""
        batch = await self._objects.get(BATCH, batch_id, owner)
        if batch.data.request != msgspec.to_builtins(asked):
            raise IdempotencyConflictError("the idempotency key was used with another payload")
        return json_response(shown_batch(batch))

    async def _check_input(self, file_id: str, owner: str) -> None:
        try:
            file = await self._files.get(file_id, owner)
        except ObjectNotFoundError as exc:
            raise InvalidRequestError(exc.message, param="input_file_id") from None
        if file.data.purpose != "batch":
            raise InvalidRequestError(
                f"the input file has the purpose {file.data.purpose}, not batch", param="input_file_id"
            )
        if file.data.size > self._most:
            raise InvalidRequestError(
                f"the input file has {file.data.size} bytes; at most {self._most}", param="input_file_id"
            )

    async def list(self, request: Request) -> Response:
        """``GET /v1/batches``."""
        asked = page_query(request)
        page = await self._objects.page(
            BATCH, call_of(request).owner_key, order=asked.order, after=asked.after, limit=asked.limit
        )
        rows = [shown_batch(batch) for batch in page.objects]
        ids = [row["id"] for row in rows] or [None]
        shown = {
            "object": "list",
            "data": rows,
            "first_id": ids[0],
            "last_id": ids[-1],
            "has_more": page.more,
        }
        return json_response(shown)

    async def one(self, request: Request) -> Response:
        """``GET /v1/batches/{id}``."""
        viewer = call_of(request).viewer
        return json_response(shown_batch(await self._objects.get(BATCH, request.path_params["id"], viewer)))

    async def cancel(self, request: Request) -> Response:
        """``POST /v1/batches/{id}/cancel``: what is done by then stays in its output."""

        def cancelling(data: BatchData) -> BatchData | None:
            if data.status in ("cancelling", "cancelled"):
                return None
            if data.status in ENDED or data.status == "finalizing":
                raise ObjectConflictError(f"a batch that is {data.status} cannot be cancelled")
            times = {**data.times, "cancelling_at": int(time.time())}
            return msgspec.structs.replace(data, status="cancelling", times=times)

        viewer = call_of(request).viewer
        batch = await self._objects.change(BATCH, request.path_params["id"], viewer, cancelling)
        return json_response(shown_batch(batch))
