"""The one way of HTTP requests into the queue: count, read, check, prepare, submit, answer.

What differs between APIs is an :class:`~dynamo_tasks.frontend.openai.apis.Api`; lines of batches come this way, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from dynamo_tasks.engines.images.messages import image_places, with_fetched
from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.errors import (
    DeadlineUnreachableError,
    DynamoError,
    IdempotencyConflictError,
    InvalidRequestError,
    NoInstancesError,
    NotStartedError,
    QueueFullError,
    ServerUnavailableError,
    StreamExpiredError,
)
from dynamo_tasks.frontend.gateway import (
    EventStream,
    Gateway,
    ServedModel,
    Submission,
    allowed,
    check_allowed,
    unknown_model,
)
from dynamo_tasks.frontend.http_call import HttpCall, call_of, count_call, raw_body
from dynamo_tasks.frontend.models import check_images
from dynamo_tasks.frontend.openai.apis import Api, ParsedBody, Turn
from dynamo_tasks.frontend.openai.collect import CollectedResponse
from dynamo_tasks.frontend.openai.render import Render
from dynamo_tasks.frontend.settings import FrontendSettings, idempotency_key
from dynamo_tasks.frontend.sse import EventStreamResponse, header_text
from dynamo_tasks.protocol.http.chat_messages import has_parts
from dynamo_tasks.protocol.http.limits import OWN_CACHE
from dynamo_tasks.protocol.http.openai import GenerationRequest, OpenAIRequest
from dynamo_tasks.protocol.names import SESSION_HEADER, session_of
from dynamo_tasks.protocol.trace import TRACE_HEADERS

__all__ = ["Generation", "Prepared"]

_MODEL_HEADER = b"x-dynamo-model"
"""Of answers: the served model, where the name that was asked for may stand for several."""
_UNTAKEN = (DeadlineUnreachableError, NoInstancesError, NotStartedError, QueueFullError)
"""Errors of a model that cannot take a request now."""
_PROMPT = ("messages", "tools", "chat_template_kwargs", "reasoning_effort")
"""What the tokens of a prompt are made of."""
_SURE = 5.0
"""Seconds for which a place that a request took is its own, whether it is submitted or not; the server waits for 10."""

_FETCHED = 1 << 20
"""Size for which a body with images that were fetched is taken: what is done with it is done beside the loop."""


def salt_of(call: HttpCall, given: Any) -> str:
    """The salt of a request's blocks: the client's own within the namespace that its key imposes; empty = none."""
    namespace = call.limits.cache_namespace
    if namespace == OWN_CACHE:
        namespace = call.owner_key
    if not namespace:
        return str(given or "")
    # Of one length, so that no client's salt is another namespace.
    return hashlib.blake2b(f"{namespace}\0{given or ''}".encode(), digest_size=16).hexdigest()


class Prepared(Struct):
    """A request that is ready to be submitted.

    Attributes:
        api: The API that it came by.
        request: Its checked body.
        submission: As it goes to the queue.
        render: How its stream is rendered; ``None`` where that is just values.
        turn: See :class:`ParsedBody`.
        model: Name of the served model that it goes to.
        others: Models to try where that one cannot take it, in this order.
        skipped: A model before it that nobody serves; empty = there is none.
        again: Prepares it for the first of some models; ``None`` where the name stands for itself alone.
    """

    api: Api
    request: OpenAIRequest
    submission: Submission
    render: Render | None
    turn: Turn | None
    model: str
    others: list[str] = []
    skipped: str = ""
    again: Callable[[list[str]], Awaitable[Prepared]] | None = None


class Generation:
    """Takes requests of all APIs."""

    def __init__(self, gateway: Gateway, settings: FrontendSettings):
        self._gateway = gateway
        self._settings = settings

    async def answer(self, api: Api, request: Request) -> ASGIApp:
        """Answer an HTTP request with what becomes of it."""
        call = call_of(request)
        async with self._counted(api, call):
            raw = await raw_body(request)
            if api.follows and (key := idempotency_key(request.headers)):
                first = await self._first_use(api, raw, call, key)
                if isinstance(first, Response):
                    return first
                if first is not None:
                    return self._response(api, await offload(len(raw), api.asked, raw), None, first, call)
            prepared = await self.prepare(api, raw, call, request.headers)
            if self._settings.announces and api.announced and prepared.submission.options.background:
                await self._gateway.announce(call.request_id)  # before it is there: so none is forgotten
            stream = await self.submit(prepared, call)
        return self._response(api, prepared.request, prepared.render, stream, call)

    async def _first_use(
        self, api: Api, raw: bytes, call: HttpCall, key: str
    ) -> EventStream | Response | None:
        """The stream of the request that an idempotency key stands for already, or what is kept of it."""
        known = await self._gateway.first_use(api.base, call.owner_key, key)
        if known is None:
            return None
        request_id, digest = known
        # Before anything of the first one is shown: with another payload it is another request.
        if digest != await offload(len(raw), _digest, api, raw):
            raise IdempotencyConflictError(f"idempotency key {key!r} was used with another payload")
        try:
            found: EventStream | Response | None = await self._gateway.attach(
                request_id, None, call.owner_key
            )
        except StreamExpiredError:
            streamed = (await offload(len(raw), api.asked, raw)).stream
            found = None if streamed else await api.repeated(request_id, call.owner_key)
            if found is None:
                raise StreamExpiredError(
                    f"what the idempotency key {key!r} stands for was deleted, or its stream is past its retention; "
                    "another key makes a new one"
                ) from None
        # Nothing was begun: the place that it took is free again.
        if call.counted_at:
            await self._gateway.withdraw(api.base, call.request_id, call.owner_key, call.limits)
        return found

    async def prepare(self, api: Api, raw: bytes, call: HttpCall, headers: Mapping[str, str]) -> Prepared:
        """Read and check a body, and prepare it for the queue; a large one beside the loop.

        Args:
            api: What the body is of.
            raw: The body.
            call: Who sent it, and the id of the request that it becomes.
            headers: Of the HTTP request: its trace, its time limit, its idempotency key.

        Raises:
            InvalidRequestError: names the field, and what is allowed.
            UnknownModelError: Nobody serves the model.
        """
        parsed = await api.read(raw, call)
        asked = parsed.request.model
        known, served = self._settings.names, await self._gateway.models()
        if asked not in known.aliases and asked not in known.fallbacks:
            if call.limits.models:
                check_allowed(call.limits, served, asked)
            return await self._prepared(asked, served, api, parsed, raw, call, headers)

        async def first(names: list[str]) -> Prepared:
            served = await self._gateway.real_models()
            there = [name for name in names if name in served and call.limits.allows(asked, name)]
            if not there:
                raise unknown_model(asked, allowed(call.limits, await self._gateway.models()))
            prepared = await self._prepared(there[0], served, api, parsed, raw, call, headers)
            prepared.others, prepared.again = there[1:], first
            prepared.skipped = "" if there[0] == names[0] else names[0]
            return prepared

        return await first(known.candidates(asked, idempotency_key(headers) or call.request_id))

    async def _prepared(
        self,
        name: str,
        served: dict[str, ServedModel],
        api: Api,
        parsed: ParsedBody,
        raw: bytes,
        call: HttpCall,
        headers: Mapping[str, str],
    ) -> Prepared:
        request, size = parsed.request, parsed.size or len(raw)
        model = api.find_model(name, served)
        if call.meter is not None:
            call.meter.model = name
        may_have = api.base == "chat" and has_parts(parsed.body["messages"])
        try:
            if may_have and (images := image_places(parsed.body["messages"])):
                check_images(images, model, served)
                if fetched := await self._gateway.fetch_images(parsed.body, model):
                    messages = with_fetched(parsed.body["messages"], fetched)
                    parsed.body, size = {**parsed.body, "messages": messages}, max(size, _FETCHED)
            salt = salt_of(call, parsed.body.get("cache_salt")) if api.operation == "generate" else ""
            payload = await offload(size, self._payload, api, name, model, salt, parsed.body)
        except InvalidRequestError as error:
            raise api.reworded(error) from None
        render = api.render(parsed, payload, call.request_id)
        account = None
        if call.owner_key:
            account = self._settings.accounts.of(call.limits, name, payload, size)
        submission = Submission(
            endpoint=model.endpoints[api.operation],
            payload=payload,
            request_id=call.request_id,
            options=self._settings.options(request, headers, call.owner_key, call.limits, parsed.retention),
            render=b"" if render is None else render.encode(),
            owner_key=call.owner_key,
            headers=self._carried(raw, call, headers),
            size=size,
            document=parsed.document,
            account=account,
            counted=call.limits.counts_open,
        )
        if api.follows and submission.options.idempotency_key:
            submission.digest = await offload(len(raw), _digest, api, raw)
        return Prepared(api, request, submission, render, parsed.turn, name)

    def _carried(self, raw: bytes, call: HttpCall, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers that go on with a request: of its trace, and its session."""
        carried = {name: headers[name] for name in TRACE_HEADERS if name in headers}
        name = headers.get(SESSION_HEADER) or self._settings.session_named(raw)
        if name:
            carried[SESSION_HEADER] = session_of(call.owner_key, name)
        return carried

    def _payload(
        self, api: Api, name: str, model: ServedModel, salt: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        if body.get("model") != name:  # an alias: engines know their own names alone
            body = {**body, "model": name}
        if salt:
            body = {**body, "cache_salt": salt}
        return self._gateway.prepare(api.base, body, model)

    async def count_tokens(self, api: Api, request: Request) -> int:
        """The number of tokens that the prompt of a request would have; nothing is submitted.

        Raises:
            InvalidRequestError: names the field.
            RateLimitError: The API key is at its limit of requests per minute, towards which this one counts, too.
        """
        call = call_of(request)
        await count_call(self._gateway, call)
        raw = await raw_body(request)
        parsed = await api.read(raw, call)
        served = await self._gateway.models()
        check_allowed(call.limits, served, parsed.request.model)
        model = api.find_model(parsed.request.model, served)
        prompt = {name: parsed.body[name] for name in _PROMPT if name in parsed.body}
        found = await self._gateway.tokenize(prompt, model)
        return int(found["count"])

    async def submit(self, prepared: Prepared, call: HttpCall) -> EventStream:
        """Put it into its queue, and read it from its start. See :meth:`.Gateway.submit`."""
        api = prepared.api
        if call.counted_at and time.monotonic() - call.counted_at > _SURE:
            await self._count(api, call)  # its body took long: the place may be another's by now
        try:
            stream = await self._first(prepared, call)
        finally:
            account = prepared.submission.account
            if account is not None and account.left is not None:
                call.headers = [*call.headers, *account.left.headers()]
        if call.counted_at and stream.request_id != call.request_id:  # an idempotent repetition
            await self._gateway.withdraw(api.base, call.request_id, call.owner_key, call.limits)
        return stream

    async def _first(self, prepared: Prepared, call: HttpCall) -> EventStream:
        """Submit it to the first of its models that takes it.

        The repetition of a request that a fallback took conflicts with what its first model would get: then the
        fallback is asked, too. Where one of them is away, that is told: only then the same may succeed later.
        """
        refusal: DynamoError | None = None
        try:
            while True:
                try:
                    stream = await (
                        self._gateway.submit(prepared.submission)
                        if prepared.turn is None
                        else self._in_turn(prepared.turn, prepared.submission)
                    )
                    break
                except _UNTAKEN as error:
                    refusal = error
                except IdempotencyConflictError as error:
                    refusal = refusal or _away(prepared) or error
                if prepared.again is None or not prepared.others:
                    raise refusal
                other = await prepared.again(prepared.others)
                for field in ("submission", "render", "model", "others", "skipped"):
                    setattr(prepared, field, getattr(other, field))
        finally:
            refusal = None  # its traceback has this frame: a circle that would keep the whole connection
        if prepared.again is not None:
            call.headers = [*call.headers, (_MODEL_HEADER, header_text(prepared.model).encode())]
        return stream

    async def _in_turn(self, turn: Turn, submission: Submission) -> EventStream:
        await turn.begin()
        try:
            stream = await self._gateway.submit(submission)
        except ServerUnavailableError:
            raise  # it may have been submitted
        except BaseException:
            await turn.give_up()
            raise
        if stream.request_id != submission.request_id:  # an idempotent repetition
            await turn.give_up()
        return stream

    @contextlib.asynccontextmanager
    async def _counted(self, api: Api, call: HttpCall) -> AsyncIterator[None]:
        """Count a request for its API key before anything of it is read; it has its place until it ends.

        Raises:
            RateLimitError: The API key is at a limit of its own.
        """
        if not (call.limits.requests_per_minute or call.limits.concurrent_requests):
            yield
            return
        await self._count(api, call)
        try:
            yield
        except ServerUnavailableError:
            raise  # it may have been submitted
        except BaseException:
            await self._gateway.withdraw(api.base, call.request_id, call.owner_key, call.limits)
            raise

    async def _count(self, api: Api, call: HttpCall) -> None:
        allowance = await self._gateway.admit(api.base, call.request_id, call.owner_key, call.limits)
        call.counted_at = time.monotonic()
        call.headers = allowance.headers()
        allowance.check()

    def _response(
        self, api: Api, asked: OpenAIRequest, render: Render | None, stream: EventStream, call: HttpCall
    ) -> ASGIApp:
        streamed = isinstance(asked, GenerationRequest) and asked.stream
        if stream.render and stream.request_id != call.request_id:
            # An idempotent repetition: the first one's id and time.
            render = Render.decode(stream.render, stream.request_id)
        if isinstance(asked, GenerationRequest) and asked.background and not streamed:
            stream.close()
            return api.accepted(render, stream.request_id)
        if not streamed or render is None:
            return CollectedResponse(stream, api.collector(render, asked), api=api.name, meter=call.meter)
        return EventStreamResponse(
            stream,
            api.renderer(render),
            api=api.name,
            keep_alive=self._settings.keep_alive,
            silence=api.keep_alive,
            header_delay=self._settings.header_delay,
            place=self._gateway.place,
            meter=call.meter,
        )


def _digest(api: Api, raw: bytes) -> str:
    return hashlib.blake2b(f"{api.name} ".encode() + raw, digest_size=16).hexdigest()


def _away(prepared: Prepared) -> NoInstancesError | None:
    """The error over a model that was passed over."""
    if not prepared.skipped:
        return None
    return NoInstancesError(f"no instance serves {prepared.skipped!r} now", retry_after=1.0)
