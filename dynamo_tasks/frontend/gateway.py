"""The gateway: all that the HTTP side asks of the rest of the system.

The frontend knows HTTP and the OpenAI API; everything behind it (queue, ledger, logs, instances) is one
:class:`Gateway`, implemented on the runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from msgspec import Struct

from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.errors import EndpointError, NoInstancesError, UnknownModelError
from dynamo_tasks.protocol.account import Account
from dynamo_tasks.protocol.events import End, ErrorInfo, Event, EventId, Kind
from dynamo_tasks.protocol.http.limits import Allowance, KeyLimits
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.options import RequestOptions
from dynamo_tasks.protocol.states import State
from dynamo_tasks.store.conversations import Conversations

__all__ = [
    "EventStream", "Gateway", "QueuePlace", "RequestInfo", "ServedModel", "Submission", "allowed", "check_allowed",
    "end_of", "unknown_model",
]  # fmt: skip


class ServedModel(Struct):
    """A model that live instances serve, or that one is started for.

    Attributes:
        card: What the instances report of it.
        created: Seconds since 1970.
        endpoints: The endpoint of each operation: ``generate``, ``embed``.
        state: Of a model that may have no instance: ``ready``, ``starting``, ``idle`` (a request starts it),
            ``asleep`` (a request wakes it), or ``unavailable`` (it was tried, and does not start); else empty.
    """

    card: ModelCard
    created: int
    endpoints: dict[str, EndpointId]
    state: str = ""


def unknown_model(name: str, served: Mapping[str, ServedModel]) -> UnknownModelError | NoInstancesError:
    """The error over a model that nobody serves."""
    if not served:
        return NoInstancesError("no model is served at the moment", retry_after=1)
    known = ", ".join(sorted(served))
    return UnknownModelError(f"model {name!r} is not served; served models: {known}", param="model")


def allowed(limits: KeyLimits, served: dict[str, ServedModel]) -> dict[str, ServedModel]:
    """The models that a key may ask for."""
    return {name: served[name] for name in served if limits.allows(name)} if limits.models else served


def check_allowed(limits: KeyLimits, served: dict[str, ServedModel], name: str) -> None:
    """Refuse a model that a key may not ask for, as if nobody served it: what there is besides is not told.

    Raises:
        UnknownModelError: It may not.
    """
    if not limits.allows(name):
        known = ", ".join(sorted(allowed(limits, served))) or "none"
        text = f"model {name!r} does not exist, or this API key may not use it; it may use: {known}"
        raise UnknownModelError(text, param="model")


class Submission(Struct):
    """A request on its way into the queue.

    Attributes:
        endpoint: Who shall run it.
        payload: Its one argument, as :meth:`Gateway.prepare` made it.
        request_id: A new id (the Celery task id).
        options: Of the request.
        render: How to render its stream (an encoded ``Render``), kept with the record; empty = values, as they are.
        owner_key: Hash of the API key; only the same key may read or cancel the request. Empty = anyone.
        headers: Of the trace that the HTTP request belongs to.
        size: Bytes of the body that it came in.
        document: What the API keeps beside the record; empty = nothing.
        digest: Of what the idempotency key stands for; empty = the payload.
        account: What it is charged to its API key; ``None`` = it counts for nobody.
        counted: Limits of its API key count it until it ends: it lives on the first lane, where they are.
    """

    endpoint: EndpointId
    payload: dict[str, Any]
    request_id: str
    options: RequestOptions
    render: bytes = b""
    owner_key: str = ""
    headers: dict[str, str] = {}
    size: int = 0
    document: bytes = b""
    digest: str = ""
    account: Account | None = None
    counted: bool = False


class QueuePlace(Struct):
    """The place of a request that waits.

    Attributes:
        position: From 1, by the order in which workers take requests.
        reason: Why it waits, for people.
    """

    position: int
    reason: str


class RequestInfo(Struct):
    """The ledger's view of a request.

    Attributes:
        id: The request's id.
        state: Where it stands.
        endpoint: Its endpoint's name.
        created: Seconds since 1970.
        attempts: How often an instance claimed it.
        last_event: Id of the last event of its stream, ``0-0`` before the first.
        error: How it failed.
        finish_reason: Why the text ended.
        usage: ``{"prompt_tokens", "completion_tokens", "cached_tokens"}``.
        render: See :class:`Submission`.
        finished: When it ended, Unix seconds; 0 = it has not.
        place: In the queue, while it waits.
    """

    id: str
    state: State
    endpoint: str
    created: float
    attempts: int = 0
    last_event: str = "0-0"
    error: ErrorInfo | None = None
    finish_reason: str | None = None
    usage: dict[str, int] | None = None
    render: bytes = b""
    finished: float = 0.0
    place: QueuePlace | None = None


class EventStream(Protocol):
    """One reader of one request's stream.

    Attributes:
        request_id: The request's id; another one than submitted where an idempotency key was known already.
        render: What was stored with the request; empty = nothing.
    """

    request_id: str
    render: bytes

    @property
    def saw_end(self) -> bool:
        """``True`` once nothing comes any more: the reader has the end event."""
        ...

    async def next(self) -> list[Event]:
        """The next events, waiting until there is at least one; empty = closed after the end event.

        May be cancelled while it waits: then no event is lost.

        Raises:
            StreamDivergedError: This reader is ahead of the stream.
            ServerUnavailableError: The stream cannot be read.
        """
        ...

    def close(self) -> None:
        """Leave the stream; may be called twice, and after the end."""
        ...


async def end_of(stream: EventStream) -> End:
    """Read a stream to its end.

    Raises:
        EndpointError: it has none.
    """
    while events := await stream.next():
        for event in events:
            if event.kind == Kind.END:
                return await offload(len(event.data), End.decode_in_parts, event.data)
    raise EndpointError("the stream ended without an end event")


class Gateway(Protocol):
    """The way from HTTP to the queue and back.

    ``owner_key`` is the hash of the API key that asks; where it may be ``None``, that is one who may see all.

    Attributes:
        conversations: Those of the namespace.
    """

    conversations: Conversations

    async def models(self) -> dict[str, ServedModel]:
        """The models that can be asked for now, by name: those that are served, and other names of them."""
        ...

    async def real_models(self) -> dict[str, ServedModel]:
        """The models served now, by the name under which they are served."""
        ...

    async def admit(self, api: str, request_id: str, owner_key: str, limits: KeyLimits) -> Allowance:
        """Count a request for its API key, before anything is done for it.

        Args:
            api: ``chat``, ``completions`` or ``embeddings``.
            request_id: A new id.
            owner_key: Hash of the API key.
            limits: Of the key.
        """
        ...

    async def withdraw(self, api: str, request_id: str, owner_key: str, limits: KeyLimits) -> None:
        """Withdraw a request that was not submitted: it does not count as one that has not ended."""
        ...

    async def submit(self, submission: Submission) -> EventStream:
        """Put a request into its queue, and read it from its start.

        Raises:
            QueueFullError: The component takes no more; ``retry_after`` is set.
            DeadlineUnreachableError: It would not be ready by its deadline.
            NoInstancesError: Nobody serves the endpoint.
            IdempotencyConflictError: The key was used with another payload.
            ServerUnavailableError: Redis cannot be reached.
        """
        ...

    async def first_use(self, api: str, owner_key: str, key: str) -> tuple[str, str] | None:
        """The request that an idempotency key stands for, and the digest that it was first used with."""
        ...

    async def enqueue(self, submission: Submission) -> None:
        """Put a request into its queue that nobody reads yet, whether somebody serves it by now or not. Safe to repeat.

        Raises:
            QueueFullError: The component takes no more; ``retry_after`` is set.
            ServerUnavailableError: Redis cannot be reached.
        """
        ...

    async def announce(self, request_id: str) -> None:
        """See that the end of a request, which is about to be submitted, is told to webhooks."""
        ...

    async def serves(self, endpoint: EndpointId) -> bool:
        """Return whether an instance serves an endpoint now."""
        ...

    async def count(self, owner_key: str, limits: KeyLimits) -> Allowance:
        """Count a request of an API key that is not submitted, such as one of an ``@api`` method."""
        ...

    async def attach(self, request_id: str, after: EventId | None, owner_key: str | None) -> EventStream:
        """Read a request's stream, from its start or after an event.

        Raises:
            RequestNotFoundError: Unknown, or of another owner.
            StreamExpiredError: Past its retention.
            InvalidEventIdError: ``after`` is beyond the top.
        """
        ...

    async def status(self, request_id: str, owner_key: str | None) -> RequestInfo:
        """Report the status of a request; raises :class:`RequestNotFoundError`."""
        ...

    async def place(self, request_id: str) -> QueuePlace | None:
        """Tell where a request stands that waits; ``None`` where it does not."""
        ...

    async def events(self, request_id: str, owner_key: str) -> list[Event]:
        """Read a request's events, as they are now; raises :class:`RequestNotFoundError`."""
        ...

    async def document(self, request_id: str, owner_key: str, part: str = "given") -> bytes:
        """Read the bytes that an API keeps beside the record of a request, empty where nothing is kept.

        Args:
            request_id: Its id.
            owner_key: Who asks.
            part: ``given`` with the request, or ``made`` of its stream.

        Raises:
            RequestNotFoundError: Unknown, or of another owner.
        """
        ...

    async def keep(self, request_id: str, made: bytes, retention: float) -> None:
        """Keep what an API has made of a stream that has ended; the stream goes after so many seconds."""
        ...

    async def cancel(self, request_id: str, owner_key: str | None, purge: bool) -> RequestInfo:
        """Stop a request; with ``purge`` erase payload and stream too. Raises :class:`RequestNotFoundError`."""
        ...

    async def time(self) -> float:
        """Unix seconds by the clock of the Redis server, which all processes share."""
        ...

    async def overview(self) -> dict[str, Any]:
        """Everything that the live page shows: components, instances, queues, requests that have not ended, batches.

        Raises:
            ServerUnavailableError: Redis cannot be reached.
        """
        ...

    async def measure(self) -> None:
        """Bring the metrics up to date that are asked for when somebody looks.

        Raises:
            ServerUnavailableError: Redis cannot be reached; they stay as they are.
        """
        ...

    async def retry(self, request_id: str) -> None:
        """Queue a dead letter again, from its beginning; raises :class:`RequestNotFoundError`."""
        ...

    async def healthy(self) -> bool:
        """Return whether at least one instance serves."""
        ...

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        """Return whether every service has its instances, and the detail for people."""
        ...

    async def fetch_images(self, body: dict[str, Any], model: ServedModel) -> dict[str, bytes]:
        """Fetch images behind http(s) URLs, where they are fetched in this process: URL → bytes.

        Args:
            body: A chat with images.
            model: The model that it names.

        Raises:
            InvalidRequestError: An image cannot be had.
        """
        ...

    def prepare(self, api: str, body: dict[str, Any], model: ServedModel) -> dict[str, Any]:
        """Make the endpoint's payload: chat template, tokens, limits. May be called in a thread.

        Args:
            api: ``chat``, ``completions`` or ``embeddings``.
            body: The checked request, engine fields only.
            model: The model that it names.

        Raises:
            InvalidRequestError: Too long, or not possible with this model.
        """
        ...

    async def tokenize(self, body: dict[str, Any], model: ServedModel) -> dict[str, Any]:
        """Turn a prompt or a chat into tokens, or tokens into text; nothing is generated.

        Args:
            body: See :meth:`.Processor.tokenize`.
            model: The model that it names.

        Raises:
            InvalidRequestError: a field is not valid.
            NoInstancesError: The Processor is a component of its own, and none is there.
        """
        ...
