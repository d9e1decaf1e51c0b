"""The ASGI application.

Some POST paths carry the tokens; they are looked up in a table and answered in raw ASGI. The rest goes
through Starlette's router. Whatever fails, on either way, becomes an answer in OpenAI's shape here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import unquote

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynamo_tasks.errors import ConfigError, DynamoError, EndpointError
from dynamo_tasks.frontend.access.admission import OPEN_PATHS, ApiKeys, Origins, key_id
from dynamo_tasks.frontend.access.callers import Callers
from dynamo_tasks.frontend.access.known_keys import KnownKeys
from dynamo_tasks.frontend.access.tenant_metrics import TenantMetrics
from dynamo_tasks.frontend.api_routes import ApiRoute, make_route
from dynamo_tasks.frontend.gateway import Gateway
from dynamo_tasks.frontend.generation import Generation
from dynamo_tasks.frontend.health import HealthAPI
from dynamo_tasks.frontend.http.errors import REQUEST_ID, error_payload, error_response, json_response
from dynamo_tasks.frontend.http_call import (
    HttpCall,
    RecentCalls,
    RequestMeter,
    call_of,
    count_request,
    new_id,
)
from dynamo_tasks.frontend.messages.api import CountTokensApi, MessagesApi
from dynamo_tasks.frontend.models import ModelsAPI
from dynamo_tasks.frontend.openai.apis import Api, ChatApi, CompletionsApi, EmbeddingsApi
from dynamo_tasks.frontend.openai.azure import AZURE, translate
from dynamo_tasks.frontend.openai.tokenize import TokensAPI
from dynamo_tasks.frontend.openapi.document import PATH as OPENAPI_PATH
from dynamo_tasks.frontend.openapi.document import OpenApi
from dynamo_tasks.frontend.openapi.page import docs_routes
from dynamo_tasks.frontend.page.assets import page_routes
from dynamo_tasks.frontend.page.live import LiveAPI
from dynamo_tasks.frontend.requests_api import RequestsAPI
from dynamo_tasks.frontend.responses.api import ResponsesApi
from dynamo_tasks.frontend.responses.conversation_routes import ConversationRoutes
from dynamo_tasks.frontend.responses.routes import ResponsesRoutes
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.frontend.spans import end_http_span, http_span
from dynamo_tasks.observe import log
from dynamo_tasks.observe.tracing import OFF, tracing

__all__ = ["FrontendApp", "Wing", "api_table", "create_app"]

_HEADER = REQUEST_ID.encode()
_COUNT_TOKENS = CountTokensApi()


class Wing(Protocol):
    """An API that needs more than the gateway."""

    def routes(self) -> list[Route]:
        """Its paths."""
        ...


def api_table(gateway: Gateway, settings: FrontendSettings, *, stores: bool = True) -> dict[str, Api]:
    """The APIs that submit requests, by path.

    Args:
        gateway: The way to the queue.
        settings: How the HTTP side behaves.
        stores: Whether responses can be got later.
    """
    return {
        "/v1/chat/completions": ChatApi(),
        "/v1/completions": CompletionsApi(),
        "/v1/embeddings": EmbeddingsApi(),
        "/v1/responses": ResponsesApi(gateway, settings, stores=stores),
        "/v1/messages": MessagesApi(),
    }


def create_app(
    gateway: Gateway,
    settings: FrontendSettings | None = None,
    routes: Sequence[ApiRoute] = (),
    fallback: ASGIApp | None = None,
    wings: Sequence[Wing] = (),
    known: KnownKeys | None = None,
) -> FrontendApp:
    """Make the application.

    Args:
        gateway: The way to the queue.
        settings: How it behaves.
        routes: The ``@api`` methods that it serves, too.
        fallback: Another application, which answers what is at no path of ours.
        wings: APIs that need more than the gateway, such as files.
        known: API keys that are made at run time; none by default.

    Raises:
        ConfigError: Two routes have the same path and method.
    """
    return FrontendApp(gateway, settings or FrontendSettings(), routes, fallback, wings, known)


class FrontendApp:
    """The ASGI application; see :func:`create_app`."""

    def __init__(
        self,
        gateway: Gateway,
        settings: FrontendSettings,
        routes: Sequence[ApiRoute] = (),
        fallback: ASGIApp | None = None,
        wings: Sequence[Wing] = (),
        known: KnownKeys | None = None,
    ):
        self._generation = Generation(gateway, settings)
        self._settings = settings
        self._recent = RecentCalls()
        self._tenants = TenantMetrics(settings.metric_tenants, settings.api_keys)
        self._open = OPEN_PATHS
        self._callers = Callers(ApiKeys(settings.api_keys), known, settings.require_api_keys)
        is_open = not self._callers.required
        self._origins = Origins(settings.cors_origins, settings.allowed_hosts, settings.host, is_open)
        self._hot = api_table(gateway, settings)
        apis = {api.name: api for api in self._hot.values()}
        health = HealthAPI(gateway)
        own = _routes(ModelsAPI(gateway), RequestsAPI(gateway, settings, apis), health)
        own += ResponsesRoutes(gateway, settings).routes() + ConversationRoutes(gateway, settings).routes()
        own += [
            Route("/v1/messages/count_tokens", self._count_tokens, methods=["POST"], name="count_tokens"),
            Route("/v1/responses/input_tokens", self._input_tokens, methods=["POST"], name="input_tokens"),
        ]
        own.extend(route for wing in wings for route in wing.routes())
        own.append(Route(OPENAPI_PATH, OpenApi(routes).show, name="openapi"))
        _check_paths(own, set(self._hot), routes)
        extra = [make_route(route, settings.keep_alive, gateway) for route in routes]
        if fallback is None:
            extra += [*_yielding(TokensAPI(gateway), health), *docs_routes()]
            taken = {route.path for route in routes}
            pages = [route for route in page_routes() if route.path not in taken]
            self._open |= {route.path for route in pages}
            extra += [*pages, *LiveAPI(gateway, self._recent).routes()]
        self._router = Router([*own, *extra], redirect_slashes=False, default=fallback and _as_sent(fallback))

    def paths(self) -> set[tuple[str, str]]:
        """The methods and paths that want a key."""
        found = {("POST", path) for path in self._hot}
        for route in self._router.routes:
            if isinstance(route, Route) and route.path not in self._open:
                found |= {(method, route.path) for method in (route.methods or ()) if method != "HEAD"}
        return found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope["app"] = self
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        call = HttpCall(new_id(), body_limit=self._settings.body_limit)
        call.attach(scope)
        _tidy(scope, call)
        call.browser = self._origins.headers(scope)
        # Looked up, not routed: what answers with tokens takes one step to its API.
        hot = self._hot.get(scope["path"])
        if hot is not None:
            call.request_header = hot.request_header
            await self._answer_hot(call, hot, scope, receive, send)
        else:
            await self._answer_cold(call, self._api_above(scope["path"]), scope, receive, send)

    async def _count_tokens(self, request: Request) -> Response:
        tokens = await self._generation.count_tokens(_COUNT_TOKENS, request)
        return json_response({"input_tokens": tokens}, request_id=call_of(request).request_id)

    async def _input_tokens(self, request: Request) -> Response:
        tokens = await self._generation.count_tokens(self._hot["/v1/responses"], request)
        return json_response({"object": "response.input_tokens", "input_tokens": tokens})

    def _api_above(self, path: str) -> Api | None:
        """The API whose clients ask for a path below its own: errors are in its shape."""
        return next((api for above, api in self._hot.items() if path.startswith(f"{above}/")), None)

    async def _answer_hot(self, call: HttpCall, api: Api, scope: Scope, receive: Receive, send: Send) -> None:
        call.api = api.name
        call.meter = meter = RequestMeter(api.name)
        response: Any = None
        status = 500
        span = http_span(call, scope) if tracing() else OFF
        try:
            response = await self._admit(call, scope)
            if response is None and scope["method"] != "POST":
                raise HTTPException(405, headers={"Allow": "POST"})
            if response is None:
                response = await self._generation.answer(api, Request(scope, receive))
            await response(scope, receive, call.answers(send))
            status = getattr(response, "status", 200)
        except ClientDisconnect:
            status = 499
        except Exception as exc:  # the outermost layer: whatever it is, the client gets an answer
            failure = _failure(exc, call, scope, api)
            self._tenants.refused(call.owner_key, call.limits, exc)
            status = failure.status_code
            # Its head is on its way: a second answer would be read as a part of the first.
            if getattr(response, "started", False):
                raise
            await failure(scope, receive, call.answers(send))
        finally:
            tokens, usage = _counts(response)
            meter.done(status, tokens, usage)
            if call.owner_key:
                self._tenants.answered(call.owner_key, call.limits, tokens, usage)
            if span is not OFF:
                end_http_span(span, status, meter.model, usage)
            self._recent.add(call, status, tokens)
            log.event(
                "http.request", request_id=call.request_id, api=api.name, status=status, model=meter.model,
                duration_s=meter.seconds, key=key_id(call.owner_key),
            )  # fmt: skip

    async def _answer_cold(
        self, call: HttpCall, api: Api | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        start = _Start(send, call)
        call.request_header = "" if api is None else api.request_header
        try:
            app = (await self._admit(call, scope)) or self._router
            await app(scope, receive, start.send)
        except ClientDisconnect:
            start.status = 499
        except Exception as exc:  # as above
            failure = _failure(exc, call, scope, api)
            self._tenants.refused(call.owner_key, call.limits, exc)
            if start.status:
                raise
            await failure(scope, receive, start.send)
        finally:
            count_request(_route_name(scope), start.status or 500)

    async def _admit(self, call: HttpCall, scope: Scope) -> Response | None:
        """Let a request in; returns the answer to what only asks whether it may."""
        preflight = self._origins.check(scope)
        if preflight is not None:
            return preflight
        if scope["method"] == "OPTIONS" and scope["path"] == "*":
            return _allowed("DELETE, GET, HEAD, POST")
        if scope["path"] not in self._open:
            call.owner_key, call.limits, call.token_expires = await self._callers.admit(scope)
        return None


class _Start:
    """Notes the status of an answer and sees to its ``x-request-id``."""

    def __init__(self, send: Send, call: HttpCall):
        self.status = 0
        self._send = send
        self._call = call
        self._header = (_HEADER, call.request_id.encode())

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            if all(name != _HEADER for name, _ in headers):
                headers.append(self._header)
            message = {**message, "headers": [*headers, *self._call.added(headers)]}
        await self._send(message)


def _routes(models: ModelsAPI, requests: RequestsAPI, health: HealthAPI) -> list[Route]:
    return [
        Route("/v1/models", models.all, name="models"),
        Route("/v1/models/{name:path}", models.one, name="models"),
        Route("/v1/requests/{id}", requests.one, methods=["GET", "DELETE"], name="requests"),
        Route("/v1/requests/{id}/stream", requests.stream, name="stream"),
        Route("/v1/requests/{id}/stream-token", requests.token, methods=["POST"], name="stream_token"),
        Route("/health", health.health, name="health"),
        Route("/live", health.live, name="live"),
        Route("/ready", health.ready, name="ready"),
        Route("/metrics", health.metrics, name="metrics"),
    ]


def _yielding(tokens: TokensAPI, health: HealthAPI) -> list[Route]:
    """Routes of ours that step back where a service has a method of that name."""
    return [
        Route("/tokenize", tokens.tokenize, methods=["POST"], name="tokenize"),
        Route("/detokenize", tokens.detokenize, methods=["POST"], name="detokenize"),
        Route("/version", health.version, name="version"),
        Route("/ping", health.health, methods=["GET", "POST"], name="ping"),
    ]


def _check_paths(own: list[Route], hot: set[str], routes: Sequence[ApiRoute]) -> None:
    reserved = hot | {route.path for route in own}
    taken: set[tuple[str, str]] = set()
    for route in routes:
        if route.path in reserved or (route.method, route.path) in taken:
            raise ConfigError(f"the path {route.path} of @api {route.name} is taken")
        taken.add((route.method, route.path))


def _route_name(scope: Scope) -> str:
    name = getattr(scope.get("route"), "name", None)
    return str(name or "other")


def _failure(exc: Exception, call: HttpCall, scope: Scope, api: Api | None = None) -> Any:
    """The answer for what went wrong."""
    answer = error_response if api is None else api.failure
    if isinstance(exc, DynamoError):
        return answer(exc, call.request_id)
    if isinstance(exc, HTTPException):
        return _http_failure(exc, call, scope, api)
    log.event("http.error", exc=exc, request_id=call.request_id, api=call.api, error=str(exc))
    # Its kind alone: the text of an error that nobody expected may hold what is not the client's.
    text = f"{type(exc).__name__}; the server's log has more about request {call.request_id}"
    return answer(EndpointError(text), call.request_id)


def _http_failure(exc: HTTPException, call: HttpCall, scope: Scope, api: Api | None) -> Any:
    where = f"{scope['method']} {scope['path']}"
    headers = dict(exc.headers or {})
    if exc.status_code == 405 and scope["method"] == "OPTIONS":
        return _allowed(headers.get("Allow", ""))
    if exc.status_code == 405:
        text, code = f"{where} is not possible; allowed: {headers.get('Allow', 'none')}", "method_not_allowed"
    elif exc.status_code == 404:
        text, code = f"there is nothing at {where}", "not_found"
    else:
        text, code = exc.detail, "http_error"
    status = exc.status_code
    body = (
        error_payload(status, text, code)
        if api is None
        else api.error(status, text, code, request_id=call.request_id)
    )
    return json_response(body, exc.status_code, call.request_id, headers)


def _counts(response: Any) -> tuple[int, dict[str, int] | None]:
    counts: Callable[[], tuple[int, dict[str, int] | None]] | None = getattr(response, "counts", None)
    return counts() if counts is not None else (0, None)


def _tidy(scope: Scope, call: HttpCall) -> None:
    """Take ``//v1/models/`` for ``/v1/models``: a base URL that ends with a slash gives such paths; and Azure's for
    OpenAI's."""
    path = scope["path"]
    if path.endswith("/") or path.startswith("//"):
        scope["path"] = path = "/" + path.strip("/")
    if path.startswith(AZURE):
        scope["path"], call.deployment = translate(path)


def _as_sent(app: ASGIApp) -> ASGIApp:
    """An application that gets paths as the client wrote them."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if raw := scope.get("raw_path"):
            scope = {**scope, "path": unquote(raw.decode("latin-1"))}
        await app(scope, receive, send)

    return answer


def _allowed(methods: str) -> Response:
    """The answer to OPTIONS: what may be done with a path."""
    names = {name.strip() for name in methods.split(",") if name.strip()} | {"OPTIONS"}
    return Response(status_code=204, headers={"allow": ", ".join(sorted(names))})
