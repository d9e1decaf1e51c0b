"""The streaming responder: raw ASGI, one ``send`` per batch of events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dynamo_tasks.errors import DynamoError
from dynamo_tasks.frontend.gateway import EventStream, QueuePlace
from dynamo_tasks.frontend.http.errors import REQUEST_ID, check_end
from dynamo_tasks.frontend.http.timeouts import PROBE
from dynamo_tasks.frontend.http_call import ClientWatch, RequestMeter
from dynamo_tasks.frontend.openai.render import Renderer
from dynamo_tasks.observe import log
from dynamo_tasks.protocol.events import End, Event, Kind

__all__ = ["KEEP_ALIVE", "SSE_HEADERS", "EventStreamResponse", "KeepAlive", "header_text", "nothing_left"]

KEEP_ALIVE = b": keep-alive\n"
"""A comment: readers skip it, proxies see life. One line, no blank line: a blank line ends an event, and the ``openai``
client, once it has seen an id, takes what stood before it for an event without data."""
SSE_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
"""Headers of every event stream; the last one keeps nginx from buffering it."""


_FIRST_PLACE, _PLACES = 1.0, 4.0
"""Seconds until a request that waits is told its place, and the most between two times."""


class KeepAlive:
    """Sends comments while a stream is silent.

    One timer that looks again when the silence could be long enough; on the token path only a time is noted.
    """

    def __init__(self, send: Send, interval: float, body: bytes = KEEP_ALIVE):
        """Make it.

        Args:
            send: The ASGI channel.
            interval: Seconds of silence.
            body: What is sent then.
        """
        self.busy = False
        """Set while the owner itself is sending: a slow reader is not silence."""
        self._clock = asyncio.get_running_loop().time
        self._last = self._clock()
        self._send = send
        self._interval = interval
        self._body = body
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look."""
        self._look()

    def sent(self) -> None:
        """The owner has sent something."""
        self.busy = False
        self._last = self._clock()

    def now(self, body: bytes | None = None) -> None:
        """Send a comment at once, unless something is on its way: it shows whether the client is still there."""
        if not self.busy and (self._task is None or self._task.done()):
            self._last = self._clock()
            self._task = asyncio.create_task(self._comment(body))

    def stop(self) -> None:
        """Send no more, at once; may be called twice."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _look(self) -> None:
        now = self._clock()
        waiting = self.busy or (self._task is not None and not self._task.done())
        if now - self._last >= self._interval:
            self._last = now
            if not waiting:
                self._task = asyncio.create_task(self._comment())
        self._timer = asyncio.get_running_loop().call_at(self._last + self._interval, self._look)

    async def _comment(self, body: bytes | None = None) -> None:
        await self._send({"type": "http.response.body", "body": body or self._body, "more_body": True})


class EventStreamResponse:
    """Streams a request's stream as server-sent events.

    Nothing is buffered here: a reader that does not take its data holds up ``send``, and the stream behind
    :class:`EventStream` is bounded.

    Attributes:
        started: Whether the headers are sent.
        status: How it went, as an HTTP status; 499 when the client left.
    """

    def __init__(
        self,
        stream: EventStream,
        renderer: Renderer,
        *,
        api: str,
        keep_alive: float = 15.0,
        silence: bytes = KEEP_ALIVE,
        header_delay: float = 0.0,
        meter: RequestMeter | None = None,
        place: Callable[[str], Awaitable[QueuePlace | None]] | None = None,
    ):
        """Make the response.

        Args:
            stream: Of the request; closed here.
            renderer: Makes bytes of it.
            api: Its name in logs.
            keep_alive: Seconds of silence after which something is sent.
            silence: What that is; readers skip it.
            header_delay: Seconds for which the headers wait for the first output; what fails within that
                time is raised, and can be answered with a proper status.
            meter: Told about deliveries.
            place: Asked where the request stands, as long as nobody has begun it; comments say so.
        """
        self._stream = stream
        self._renderer = renderer
        self._api = api
        self._keep_alive = keep_alive
        self._silence = silence
        self._header_delay = header_delay
        self._meter = meter
        self._place = place
        self.started = False
        self.status = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer.

        Raises:
            DynamoError: The request failed before anything was sent.
        """
        try:
            async with ClientWatch(receive) as client:
                opening = await self._opening()
                if scope.get("method") == "HEAD":
                    await self._start(send)
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    return
                await self._pump(opening, client, scope, send)
            if client.gone:
                self.status = 499
                log.event("http.disconnected", request_id=self._stream.request_id, api=self._api)
        finally:
            self._stream.close()

    def counts(self) -> tuple[int, dict[str, int] | None]:
        """Tokens delivered, and the request's token counts where known."""
        return self._renderer.tokens, self._renderer.usage

    async def _opening(self) -> list[Event]:
        """The first events: up to the first that is no claim, or what is there after the delay."""
        events: list[Event] = []
        if not self._header_delay:
            return events
        try:
            async with asyncio.timeout(self._header_delay):
                while _only_claims(events):
                    batch = await self._stream.next()
                    events += batch
                    if not batch:
                        break
        except TimeoutError:
            return events
        _raise_refusal(events)
        return events

    async def _pump(self, events: list[Event], client: ClientWatch, scope: Scope, send: Send) -> None:
        await self._start(send)
        keep_alive = KeepAlive(send, self._keep_alive, self._silence)
        keep_alive.start()
        scope[PROBE] = keep_alive.now
        places = None
        if self._place is not None and _only_claims(events):
            places = asyncio.create_task(self._say_place(self._place, keep_alive))
        try:
            last = await self._batches(events, keep_alive, send, places)
        finally:
            if places is not None:
                places.cancel()
            del scope[PROBE]
            keep_alive.stop()
        client.disarm()
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _say_place(
        self, ask: Callable[[str], Awaitable[QueuePlace | None]], keep_alive: KeepAlive
    ) -> None:
        """Say in comments where the request stands, until it is begun: soon, then less and less often."""
        pause = _FIRST_PLACE
        with contextlib.suppress(DynamoError):  # Redis is away: what is read then says so
            while True:
                await asyncio.sleep(pause)
                place = await ask(self._stream.request_id)
                if place is not None:
                    keep_alive.now(
                        b": queued position=%d reason=%b\n" % (place.position, _one_line(place.reason))
                    )
                pause = min(2 * pause, _PLACES)

    async def _batches(
        self, events: list[Event], keep_alive: KeepAlive, send: Send, places: asyncio.Task[None] | None
    ) -> bytes:
        """Send all batches but the last, whose bytes are returned; ``places`` ends with the first output."""
        renderer, meter, following = self._renderer, self._meter, self._stream.next
        try:
            if opening := renderer.opening():
                await send({"type": "http.response.body", "body": opening, "more_body": True})
            if not events:
                events = await following()
            while events:
                # A Router claims a request, and hands it on: it may wait once more.
                if places is not None and not _only_claims(events):
                    places.cancel()
                body = renderer.render(events)
                if meter is not None:
                    meter.delivered(renderer.tokens)
                if renderer.ended:
                    return self._finished(body)
                if body:
                    keep_alive.busy = True
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    keep_alive.sent()
                events = await following()
        except DynamoError as error:
            self.status = error.http_status
            return renderer.close(error)
        return renderer.close(None)  # a reader that had seen the end already

    def _finished(self, body: bytes) -> bytes:
        if self._renderer.error is not None:
            self.status = self._renderer.error.http_status
        return body

    async def _start(self, send: Send) -> None:
        headers = [*SSE_HEADERS, (REQUEST_ID.encode(), header_text(self._stream.request_id).encode())]
        self.started = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})


def _only_claims(events: list[Event]) -> bool:
    """Return whether nothing has been made of the request yet."""
    return all(event.kind == Kind.CLAIM for event in events)


def _one_line(text: str) -> bytes:
    return " ".join(text.split()).encode()


def _raise_refusal(events: Sequence[Event]) -> None:
    """Raise what a request ended with that never put out anything."""
    for event in events:
        if event.kind == Kind.END:
            check_end(End.decode(event.data))
        elif event.kind != Kind.CLAIM:
            return


def nothing_left(stream: EventStream) -> Response:
    """The answer to a reader that has seen the end: 204 is what stops an ``EventSource``, which else would come again
    (https://html.spec.whatwg.org/multipage/server-sent-events.html#sse-processing-model)."""
    stream.close()
    return Response(status_code=204, headers={REQUEST_ID: header_text(stream.request_id)})


def header_text(text: str) -> str:
    """A name that a client chose, such as a task id, as a header can hold it."""
    return quote(text, safe="/:@!$&'()*+,;=?#[]~ ")
