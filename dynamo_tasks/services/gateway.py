"""The frontend's way to the queue and back, on the runtime."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import Any

from dynamo_tasks.engines.text.threads import INLINE, offload
from dynamo_tasks.errors import IdempotencyConflictError, NoInstancesError, NotStartedError, RateLimitError
from dynamo_tasks.frontend.batches.records import SYSTEM
from dynamo_tasks.frontend.gateway import EventStream, ServedModel, Submission
from dynamo_tasks.frontend.gateway import end_of as _end_of
from dynamo_tasks.frontend.http_call import new_id
from dynamo_tasks.frontend.model_names import ModelNames
from dynamo_tasks.frontend.models import OPERATIONS, served_models
from dynamo_tasks.protocol.http.limits import Allowance, KeyLimits
from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.protocol.names import SESSION_HEADER, EndpointId
from dynamo_tasks.protocol.options import RequestOptions
from dynamo_tasks.queue.broker.envelope import build_request, submit_span
from dynamo_tasks.runtime.components.component import DistributedRuntime
from dynamo_tasks.runtime.overview import overview
from dynamo_tasks.runtime.resting import check_taken, model_state, needed
from dynamo_tasks.runtime.routing.chooser import Chooser, Chosen
from dynamo_tasks.sdk import DynamoService
from dynamo_tasks.services.batches.board import BatchBoard
from dynamo_tasks.services.known_requests import CONNECT_SECONDS, KnownRequests
from dynamo_tasks.services.webhooks.announcer import WATCHED, WATCHED_FOR, Watched
from dynamo_tasks.store.accounts.api_keys import StoredKeys
from dynamo_tasks.store.accounts.quota import Quota
from dynamo_tasks.store.accounts.usage import Usage
from dynamo_tasks.store.conversations import Conversations
from dynamo_tasks.store.ledger.submission import NewRequest, report_rejected
from dynamo_tasks.store.objects import Objects
from dynamo_tasks.store.redis.connection import in_time

__all__ = ["RuntimeGateway"]

_MEASURE_SECONDS = 1.0  # a scraper does not wait longer than some seconds
_TOKENIZE_SECONDS = 30.0
"""Seconds that a Processor of its own has to tokenize a text."""


class RuntimeGateway(KnownRequests):
    """Implements :class:`~dynamo_tasks.frontend.gateway.Gateway`.

    Args:
        runtime: The process's connections.
        namespace: Where the models are served, and the objects of APIs are.
        processor: The Processor: its instance in this process, or its service where it is a component.
        expected: Component address → number of instances that the graph is configured with.
        router: The service that chooses the Worker, if one stands in between; it has the Worker's endpoints.
        names: Other names of models.
        chooser: Chooses the Worker instance of each request, where no Router does; ``None`` = idle ones take it.
    """

    def __init__(
        self,
        runtime: DistributedRuntime,
        namespace: str,
        processor: Any,
        expected: dict[tuple[str, str], int],
        *,
        router: DynamoService[Any] | None = None,
        names: ModelNames | None = None,
        chooser: Chooser | None = None,
    ):
        super().__init__(runtime)
        self._chooser = chooser
        self._quota = Quota(runtime.client.store)
        self._namespace = namespace
        self.api_keys = StoredKeys(runtime.client.store, namespace)
        self.objects = Objects(runtime.client.store, namespace)
        self._board = BatchBoard(self.objects)
        self.conversations = Conversations(runtime.client.store, namespace, self.objects)
        self._processor = processor
        self._remote = isinstance(processor, DynamoService)
        self._expected = expected
        self._router = router
        self._names = names or ModelNames()
        self._models: dict[str, ServedModel] = {}
        self._shown: dict[str, ServedModel] = {}
        self._models_of: list[InstanceInfo] | None = None

    @property
    def usage(self) -> Usage:
        """The usage of all that goes through here."""
        store = self._runtime.client.store
        spaces = {self._namespace, *map(self.namespace_of, ("chat", "embeddings"))}
        return Usage(store, spaces, [lane.store for lane in self._runtime.client.lanes[1:]])

    async def models(self) -> dict[str, ServedModel]:
        """The models that can be asked for now, other names of them included."""
        self._look()
        return self._shown

    async def real_models(self) -> dict[str, ServedModel]:
        """The models served now."""
        self._look()
        return self._models

    def _look(self) -> None:
        watcher = self._watchers[self._namespace]
        # The watcher replaces its list as a whole: the same list is the same fleet, and nothing is made anew.
        if (instances := watcher.instances) is not self._models_of:
            served = served_models([*instances, *watcher.resting], partial(model_state, watcher))
            self._models, self._models_of = served, instances
            self._shown = self._names.shown(self._models)

    async def admit(self, api: str, request_id: str, owner_key: str, limits: KeyLimits) -> Allowance:
        """Count a request for its API key."""
        namespace = self.namespace_of(api)
        async with in_time(CONNECT_SECONDS):
            allowance = await self._quota.take(namespace, owner_key, limits, request_id)
        if allowance.reason:
            report_rejected(await self._usual(api), RateLimitError.code)
        return allowance

    async def _usual(self, api: str) -> EndpointId:
        """The endpoint that most likely was meant; which model was is not known yet."""
        operation = "embed" if api == "embeddings" else "generate"
        served = (model.endpoints.get(operation) for model in (await self.models()).values())
        return next(filter(None, served), EndpointId(self._namespace, "Worker", operation))

    async def withdraw(self, api: str, request_id: str, owner_key: str, limits: KeyLimits) -> None:
        """Give a request's place back."""
        if limits.concurrent_requests:
            async with in_time(CONNECT_SECONDS):
                await self._quota.release(self.namespace_of(api), owner_key, request_id)

    def namespace_of(self, api: str) -> str:
        """The namespace in which a request of this kind lives."""
        outer = self._processor if self._remote and api != "embeddings" else self._router
        return self._namespace if outer is None else str(outer.namespace_name)

    async def submit(self, submission: Submission) -> EventStream:
        """Put a request into its queue, and read it from its start."""
        endpoint, payload = self._target(submission)
        try:
            async with in_time(CONNECT_SECONDS):
                return await self._submit(submission, endpoint, payload)
        except (NoInstancesError, NotStartedError) as error:
            report_rejected(endpoint, error.code)
            raise

    async def first_use(self, api: str, owner_key: str, key: str) -> tuple[str, str] | None:
        """The request that an idempotency key stands for, and the digest that it was first used with."""
        name = self._runtime.client.store.keys(self.namespace_of(api)).idempotency(owner_key, key)
        async with in_time(CONNECT_SECONDS):
            found = await self._runtime.client.read_key(name)
        if found is None:
            return None
        request_id, _, digest = found.decode().partition(" ")
        return request_id, digest

    async def enqueue(self, submission: Submission) -> None:
        """Put a request into its queue that nobody reads yet."""
        served = submission.endpoint.name in OPERATIONS
        endpoint, payload = self._target(submission) if served else (submission.endpoint, submission.payload)
        async with in_time(CONNECT_SECONDS):
            new = await offload(submission.size, self._new_request, submission, endpoint, payload)
            # Lines of batches, and deliveries: with what they are of, on the first lane.
            new.lane = 1
            # Its id is the caller's own: what has it already is this request.
            with contextlib.suppress(IdempotencyConflictError):
                await self._runtime.client.ledger.submit(new)

    async def announce(self, request_id: str) -> None:
        """See that the end of a request is told to webhooks."""
        async with in_time(CONNECT_SECONDS):
            await self.objects.create(WATCHED, request_id, SYSTEM, Watched(), ttl=WATCHED_FOR)

    async def serves(self, endpoint: EndpointId) -> bool:
        """Return whether an instance serves an endpoint now."""
        return (await self._runtime.watch(endpoint.namespace)).takes(endpoint)

    async def count(self, owner_key: str, limits: KeyLimits) -> Allowance:
        """Count a request that is not submitted."""
        async with in_time(CONNECT_SECONDS):
            return await self._quota.take(self._namespace, owner_key, limits)

    async def _submit(self, submission: Submission, endpoint: EndpointId, payload: Any) -> EventStream:
        # Also the Worker behind a Processor or Router: they would take what nobody can answer.
        for one in {submission.endpoint, endpoint}:
            watcher = self._watchers[one.namespace]
            if one not in watcher.by_endpoint:
                check_taken(watcher, one, submission.options.deadline)
        with submit_span(submission.request_id, endpoint, endpoint.queue, submission.headers) as span:
            submission.headers = span.carry(submission.headers)
            chosen = await self._chosen(submission, endpoint, payload)
            new = await offload(submission.size, self._new_request, submission, endpoint, payload, chosen)
            sub = await self._runtime.client.reader.submit(new)
        sub.render = sub.render or new.render
        return sub

    async def _chosen(self, submission: Submission, endpoint: EndpointId, payload: Any) -> Chosen | None:
        """The chosen instance; none where none runs, nobody chooses, or for spare capacity."""
        chooser = self._chooser
        if chooser is None or endpoint != submission.endpoint or submission.options.preemptible:
            return None
        # None runs, and one is started for it: the shared queue is where that one looks.
        if endpoint not in self._watchers[endpoint.namespace].by_endpoint:
            return None
        session = submission.headers.get(SESSION_HEADER, "")
        return await chooser.choose(endpoint, payload, submission.request_id, session)

    def _target(self, submission: Submission) -> tuple[EndpointId, Any]:
        """The endpoint to call and its payload: the Worker's, or that of a Processor or Router before it."""
        if self._remote and submission.endpoint.name == "generate":
            api, body = submission.payload["api"], submission.payload["body"]
            name = "chat/completions" if api == "chat" else "completions"
            return self._processor.endpoint_id(name), body
        if self._router is not None:
            return self._router.endpoint_id(submission.endpoint.name), submission.payload
        return submission.endpoint, submission.payload

    def _new_request(
        self, submission: Submission, endpoint: EndpointId, payload: Any, chosen: Chosen | None = None
    ) -> NewRequest:
        new = build_request(
            endpoint,
            submission.request_id,
            payload,
            submission.options,
            queue=endpoint.queue if chosen is None else chosen.queue(endpoint),
            marks=b"" if chosen is None else chosen.marks,
            waits=chosen is not None and chosen.late,
            prefix=self._runtime.client.store.prefix,
            headers=submission.headers,
            render=submission.render,
            owner_key=submission.owner_key,
            document=submission.document,
            # Behind a Processor or Router of its own, the Worker's queue is what fills up.
            through=() if endpoint == submission.endpoint else (submission.endpoint.component,),
        )
        new.digest = submission.digest or new.digest
        new.account = submission.account
        new.fresh, new.lane = True, int(submission.counted)
        return new

    async def time(self) -> float:
        """Unix seconds by the clock of Redis."""
        async with in_time(CONNECT_SECONDS):
            seconds, micros = await self._runtime.client.store.commands.execute("TIME")
        return int(seconds) + int(micros) / 1e6

    async def overview(self) -> dict[str, Any]:
        """Everything that the live page shows."""
        async with in_time(CONNECT_SECONDS):
            lanes = [lane.store for lane in self._runtime.client.lanes]
            return {**await overview(lanes), "batches": await self._board.rows()}

    async def measure(self) -> None:
        """Bring the gauges of requests that wait and run up to date."""
        async with in_time(_MEASURE_SECONDS):
            for watcher in [*self._watchers.values()]:
                await watcher.show_requests()

    async def healthy(self) -> bool:
        """Return whether Redis answers and an instance serves: a model, or what the service depends on."""
        if not any(lane.up for lane in self._runtime.client.lanes):
            return False
        if self._processor is not None:
            return bool(await self.models())
        counts = [await self._count(*address) for address in self._expected]
        return any(counts) or not counts

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        """Return whether every component has its configured instances."""
        detail: dict[str, Any] = {}
        for (namespace, component), configured in self._expected.items():
            wanted = needed(await self._runtime.watch(namespace), component, configured)
            there = await self._count(namespace, component)
            detail[f"{namespace}.{component}"] = {"instances": there, "expected": wanted}
        ready = all(row["instances"] >= row["expected"] for row in detail.values())
        models = sorted(await self.models())
        return ready and (bool(models) or self._processor is None), {"components": detail, "models": models}

    async def _count(self, namespace: str, component: str) -> int:
        """Live instances of a component."""
        watcher = await self._runtime.watch(namespace)
        return len({info.lease_id for info in watcher.instances if info.component == component})

    async def fetch_images(self, body: dict[str, Any], model: ServedModel) -> dict[str, bytes]:
        """Fetch images behind http(s) URLs; a Processor of its own does that there."""
        return {} if self._remote else dict(await self._processor.fetch_images(body, model.card))

    def prepare(self, api: str, body: dict[str, Any], model: ServedModel) -> dict[str, Any]:
        """Make the endpoint's payload."""
        if self._remote and api != "embeddings":
            return {"api": api, "body": body}
        if self._remote:
            return body
        prepared: dict[str, Any] = self._processor.prepare(api, body, model.card)
        return prepared

    async def tokenize(self, body: dict[str, Any], model: ServedModel) -> dict[str, Any]:
        """Turn a prompt or a chat into tokens, or tokens into text; a Processor of its own is asked by a request."""
        if not self._remote:
            found: dict[str, Any] = await offload(INLINE + 1, self._processor.tokenize, body, model.card)
            return found
        endpoint = self._processor.endpoint_id("tokenize")
        options = RequestOptions(ignore_result=True, deadline=time.time() + _TOKENIZE_SECONDS)
        asked = Submission(endpoint, {**body, "model": model.card.name}, new_id(), options, size=INLINE + 1)
        async with in_time(CONNECT_SECONDS):
            stream = await self._submit(asked, endpoint, asked.payload)
        with contextlib.closing(stream):
            end = await _end_of(stream)
        end.raise_for_state()
        return dict((end.values or [{}])[0])
