"""``POST /<name>`` for the ``@api`` methods of a service."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

from msgspec import Struct
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.errors import ConfigError, DynamoError
from dynamo_tasks.frontend.arguments import Arguments
from dynamo_tasks.frontend.gateway import Gateway
from dynamo_tasks.frontend.http.incoming import read_body
from dynamo_tasks.frontend.http.timeouts import PROBE
from dynamo_tasks.frontend.http_call import ClientWatch, call_of, check_size, count_call
from dynamo_tasks.frontend.openai.render import DONE, error_event, one_line
from dynamo_tasks.frontend.sse import SSE_HEADERS, KeepAlive
from dynamo_tasks.observe import log
from dynamo_tasks.protocol.events import ErrorInfo
from dynamo_tasks.protocol.http.bodies import decode_json
from dynamo_tasks.protocol.plain import NOT_PLAIN, encode_plain
from dynamo_tasks.sdk.endpoints.payloads import not_plain

__all__ = ["KINDS", "ApiRoute", "kind_of", "make_route"]

KINDS = ("coroutine", "async_gen", "function", "generator")
"""Kinds of handlers, as the SDK names them. Plain functions and generators run in a thread."""

_QUERY = ("GET", "DELETE")
_STREAMS = ("async_gen", "generator")
_END_ID = "end"
"""Id of the last event of a stream without ids: a browser's ``EventSource`` comes again with it, and is asked to stop;
else it would run the method again and again."""
_LAST = b"id: %b\n%b" % (_END_ID.encode(), DONE)


class ApiRoute(Struct, frozen=True, kw_only=True):
    """An ``@api`` method.

    Attributes:
        name: Its name, in logs and metrics.
        path: The path, ``/<name>``.
        handler: The bound method.
        method: The HTTP method; ``GET`` and ``DELETE`` take their arguments from the query string.
        kind: One of :data:`KINDS`; empty = found out from the handler. Generators answer with a stream.
    """

    name: str
    path: str
    handler: Callable[..., Any]
    method: str = "POST"
    kind: str = ""

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ConfigError(f"the path {self.path!r} of @api {self.name} must begin with /")
        if self.kind not in ("", *KINDS):
            raise ConfigError(f"kind {self.kind!r} of @api {self.name} is not one of {', '.join(KINDS)}")


def kind_of(handler: Callable[..., Any]) -> str:
    """Find out which of :data:`KINDS` a handler is."""
    if inspect.isasyncgenfunction(handler):
        return "async_gen"
    if inspect.iscoroutinefunction(handler):
        return "coroutine"
    return "generator" if inspect.isgeneratorfunction(handler) else "function"


def make_route(route: ApiRoute, keep_alive: float, gateway: Gateway) -> Route:
    """The HTTP route of an ``@api`` method.

    Args:
        route: The method.
        keep_alive: Seconds of silence after which a stream gets a comment.
        gateway: Counts the requests of API keys that have limits.
    """
    arguments = Arguments(route.handler)
    kind = route.kind or kind_of(route.handler)

    async def endpoint(request: Request) -> ASGIApp:
        call = call_of(request)
        await count_call(gateway, call)
        if kind in _STREAMS and request.headers.get("last-event-id") == _END_ID:
            return Response(status_code=204)
        found = arguments.bind(await _input(request), text=request.method in _QUERY)
        if kind == "async_gen":
            return ValueStreamResponse(route.handler(**found), route.name, keep_alive)
        if kind == "generator":
            return ValueStreamResponse(iterate_in_threadpool(route.handler(**found)), route.name, keep_alive)
        return _json_value(await _called(route, kind, found), route.name)

    return Route(route.path, endpoint, methods=[route.method], name=route.name)


async def _input(request: Request) -> Any:
    if request.method in _QUERY:
        return dict(request.query_params)
    raw = await read_body(request.receive, request.scope["headers"], call_of(request).body_limit)
    await check_size(raw)
    return await offload(len(raw), decode_json, raw) if raw.strip() else None


async def _called(route: ApiRoute, kind: str, arguments: dict[str, Any]) -> Any:
    if kind == "coroutine":
        return await route.handler(**arguments)
    return await run_in_threadpool(route.handler, **arguments)


def _json_value(value: Any, name: str) -> Response:
    if isinstance(value, Response):
        return value
    return Response(_encoded(value, name), media_type="application/json")


def _encoded(value: Any, name: str, *, streams: bool = False) -> bytes:
    try:
        return encode_plain(value)
    except NOT_PLAIN as exc:
        raise not_plain(f"@api {name}", value, exc, streams=streams) from exc


class ValueStreamResponse:
    """An event stream of what a generator yields, each value as JSON.

    These streams live in the generator, not in Redis: they have no ids and cannot be resumed.
    """

    def __init__(self, values: AsyncIterator[Any], name: str, keep_alive: float):
        self._values = values
        self._name = name
        self._interval = keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; when the client leaves, the generator is closed."""
        try:
            async with ClientWatch(receive) as client:
                await self._pump(client, scope, send)
        finally:
            if close := getattr(self._values, "aclose", None):
                await close()

    async def _pump(self, client: ClientWatch, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(SSE_HEADERS)})
        keep_alive = KeepAlive(send, self._interval)
        keep_alive.start()
        scope[PROBE] = keep_alive.now
        try:
            last = await self._send_all(keep_alive, send)
        finally:
            del scope[PROBE]
            keep_alive.stop()
        client.disarm()
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _send_all(self, keep_alive: KeepAlive, send: Send) -> bytes:
        try:
            async for value in self._values:
                keep_alive.busy = True
                body = one_line(b"data: %b\n\n" % _encoded(value, self._name, streams=True))
                await send({"type": "http.response.body", "body": body, "more_body": True})
                keep_alive.sent()
        except DynamoError as error:
            return error_event(error) + _LAST
        except Exception as exc:  # noqa: BLE001 - a method of the user: whatever it raises is its answer
            # The author's code: whatever it raises must end the stream with an error, not cut it off.
            log.event("http.error", exc=exc, api=self._name, error=str(exc))
            return error_event(ErrorInfo.of(exc).exception()) + _LAST
        return _LAST
