"""The routes, called without a network."""

from __future__ import annotations

import asyncio
import base64
import struct
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest

from dynamo_tasks.errors import (
    ConfigError,
    InvalidEventIdError,
    QueueFullError,
    ServerUnavailableError,
    StreamExpiredError,
)
from dynamo_tasks.frontend.api_routes import ApiRoute
from dynamo_tasks.frontend.app import create_app
from dynamo_tasks.frontend.openai.render import Render
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.states import State
from dynamo_tasks.protocol.tokens import TokenDelta
from tests.support.frontend_fakes import (
    USAGE,
    FakeGateway,
    chat,
    claim,
    end,
    failed,
    in_process,
    sse,
    text,
    tokens,
)

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


def run(
    work: Callable[[httpx.AsyncClient], Awaitable[Any]],
    gateway: FakeGateway | None = None,
    settings: FrontendSettings | None = None,
    **options: Any,
) -> Any:
    async def main() -> Any:
        async with in_process(gateway or FakeGateway(), settings, **options) as client:
            return await work(client)

    return asyncio.run(main())


def ask(
    method: str,
    path: str,
    gateway: FakeGateway | None = None,
    settings: FrontendSettings | None = None,
    **options: Any,
) -> httpx.Response:
    routes = options.pop("routes", ())
    response: httpx.Response = run(
        lambda client: client.request(method, path, **options), gateway, settings, routes=routes
    )
    return response


def error(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    found: dict[str, Any] = body["error"]
    return found


def test_a_chat_completion() -> None:
    gateway = FakeGateway()
    response = ask("POST", CHAT, gateway, json=chat(max_tokens=4, timeout=9, priority=2))
    (submission,) = gateway.submissions
    body = response.json()
    assert response.status_code == 200
    assert response.headers["x-request-id"] == submission.request_id == str(uuid.UUID(submission.request_id))
    assert body.pop("created") > 1_700_000_000
    assert body == {
        "id": f"chatcmpl-{submission.request_id}",
        "object": "chat.completion",
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello, wörld!", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    }  # fmt: skip
    assert submission.endpoint == EndpointId("dynamo", "Worker", "generate")
    assert submission.payload == {**chat(max_tokens=4, priority=2), "api": "chat"}
    options = submission.options
    assert (options.priority, options.background) == (2, False)
    assert 0 < options.deadline - time.time() <= 9
    assert gateway.streams[0].closed.is_set()


@pytest.mark.parametrize(
    ("given", "priority", "preemptible", "told"),
    [
        ({}, 0, False, None),
        ({"service_tier": "flex"}, 9, True, "flex"),
        ({"service_tier": "flex", "priority": 4}, 4, True, "flex"),
        ({"service_tier": "priority"}, 0, False, "priority"),
        ({"service_tier": "default"}, 0, False, "default"),
        ({"service_tier": "auto"}, 0, False, "default"),
        ({"service_tier": "scale"}, 0, False, "default"),
        ({"service_tier": None}, 0, False, None),
    ],
)
def test_service_tiers(given: dict[str, Any], priority: int, preemptible: bool, told: str | None) -> None:
    gateway = FakeGateway()
    body = ask("POST", CHAT, gateway, json=chat(**given)).json()
    (submission,) = gateway.submissions
    assert (submission.options.priority, submission.options.preemptible) == (priority, preemptible)
    assert body.get("service_tier") == told
    # The engine knows nothing of tiers, and of priorities only what the client has named.
    named = {"priority": given["priority"]} if "priority" in given else {}
    assert submission.payload == {**chat(**named), "api": "chat"}
    chunks = sse(ask("POST", CHAT, gateway, json=chat(stream=True, **given)).text)
    assert {chunk.get("service_tier") for _, chunk in chunks if chunk != "[DONE]"} == {told}


def test_the_trace_of_an_http_request_goes_on_with_it() -> None:
    gateway = FakeGateway()
    trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=b"}
    ask("POST", CHAT, gateway, json=chat(), headers={**trace, "x-other": "1"})
    assert gateway.submissions[0].headers == trace


def test_a_chat_stream() -> None:
    gateway = FakeGateway()
    response = ask("POST", CHAT, gateway, json=chat(stream=True, stream_options={"include_usage": True}))
    (submission,) = gateway.submissions
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-request-id"] == submission.request_id
    found = sse(response.text)
    assert "".join(c["choices"][0]["delta"].get("content", "") for _, c in found[:-2]) == "Hello, wörld!"
    assert found[-2][1]["usage"]["total_tokens"] == 7
    assert found[-1][1] == "[DONE]"
    assert submission.render
    assert Render.decode(submission.render, submission.request_id).include_usage
    assert gateway.streams[0].closed.is_set()


def test_a_completion_of_token_ids() -> None:
    gateway = FakeGateway()
    response = ask("POST", "/v1/completions", gateway, json={"model": "tiny", "prompt": [5, 6]})
    assert response.json()["choices"] == [
        {"index": 0, "text": "Hello, wörld!", "logprobs": None, "finish_reason": "stop"}
    ]
    assert response.json()["id"].startswith("cmpl-")
    assert gateway.submissions[0].payload == {
        "model": "tiny", "prompt_token_ids": [5, 6], "max_tokens": 16, "api": "completions",
    }  # fmt: skip


def test_several_choices() -> None:
    events = [
        claim(),
        tokens(1, TokenDelta("a", [1], 0), TokenDelta("x", [2], 1)),
        tokens(2, TokenDelta("b", [3], 0, "stop"), TokenDelta("y", [4], 1, "length")),
        end(3, usage=USAGE),
    ]
    response = ask("POST", CHAT, FakeGateway(lambda _: events), json=chat(n=2))
    first, second = response.json()["choices"]
    assert (first["index"], first["message"]["content"], first["finish_reason"]) == (0, "ab", "stop")
    assert (second["index"], second["message"]["content"], second["finish_reason"]) == (1, "xy", "length")


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(encoding: str) -> None:
    gateway = FakeGateway(
        lambda _: [claim(), end(1, values=[[[0.5, -1.0], [2.0, 3.0]]], usage={"prompt_tokens": 7})]
    )
    body = {"model": "vectors", "input": ["a", "b"], "encoding_format": encoding}
    answer = ask("POST", "/v1/embeddings", gateway, json=body).json()
    vectors = [row["embedding"] for row in answer["data"]]
    if encoding == "base64":
        vectors = [list(struct.unpack("<2f", base64.b64decode(vector))) for vector in vectors]
    assert vectors == [[0.5, -1.0], [2.0, 3.0]]
    assert [row["index"] for row in answer["data"]] == [0, 1]
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert gateway.submissions[0].payload == {"model": "vectors", "input": ["a", "b"], "api": "embeddings"}


def test_models() -> None:
    listed = ask("GET", "/v1/models").json()
    assert listed["object"] == "list"
    assert [row["id"] for row in listed["data"]] == ["tiny", "vectors"]
    assert ask("GET", "/v1/models/tiny").json()["created"] == 1_700_000_000
    assert error(ask("GET", "/v1/models/nope"))["code"] == "model_not_found"


LONG_KEY = {"json": chat(), "headers": {"idempotency-key": "x" * 256}}
BAD = [
    ("POST", CHAT, {"json": chat(max_tokens=-1)}, 400, "invalid_request_error", "max_tokens"),
    ("POST", CHAT, {"json": chat(messages=[])}, 400, "invalid_request_error", "messages"),
    ("POST", CHAT, {"json": chat(model="nope")}, 404, "model_not_found", "model"),
    ("POST", CHAT, {"json": chat(model="vectors")}, 400, "invalid_request_error", "model"),
    ("POST", EMBEDDINGS, {"json": {"model": "tiny", "input": "a"}}, 400, "invalid_request_error", "model"),
    ("POST", CHAT, {"content": b"{nope"}, 400, "invalid_request_error", None),
    ("POST", CHAT, {"content": b""}, 400, "invalid_request_error", None),
    ("POST", CHAT, {"content": b"[1]"}, 400, "invalid_request_error", None),
    ("POST", CHAT, LONG_KEY, 400, "invalid_request_error", "idempotency-key"),
    ("GET", CHAT, {}, 405, "method_not_allowed", None),
    ("DELETE", "/v1/models", {}, 405, "method_not_allowed", None),
    ("POST", "/v1/requests/x", {}, 405, "method_not_allowed", None),
    ("GET", "/nope", {}, 404, "not_found", None),
    ("POST", "/v1/chat/completions/x", {}, 404, "not_found", None),
    ("GET", "/v1/requests/unknown", {}, 404, "request_not_found", None),
    ("DELETE", "/v1/requests/unknown", {}, 404, "request_not_found", None),
    ("GET", "/v1/requests/unknown/stream", {}, 404, "request_not_found", None),
    ("GET", "/v1/requests/x/stream?after=nonsense", {}, 400, "invalid_event_id", None),
    ("DELETE", "/v1/requests/x?purge=maybe", {}, 400, "invalid_request_error", "purge"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code", "param"), BAD, ids=lambda x: str(x)[:40]
)
def test_what_is_wrong_is_answered_in_openais_shape(
    method: str, path: str, options: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    response = ask(method, path, **options)
    found = error(response)
    assert (response.status_code, found["code"], found["param"]) == (status, code, param)
    assert found["type"] == "invalid_request_error"


def test_an_unknown_model_lists_those_that_are_served() -> None:
    assert "tiny, vectors" in error(ask("POST", CHAT, json=chat(model="nope")))["message"]


def test_without_any_model_it_is_a_503() -> None:
    gateway = FakeGateway()
    gateway.served = {}
    response = ask("POST", CHAT, gateway, json=chat())
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert error(response)["code"] == "no_instances"


def test_405_tells_what_is_allowed() -> None:
    assert ask("GET", CHAT).headers["allow"] == "POST"
    assert set(ask("POST", "/v1/requests/x").headers["allow"].split(", ")) >= {"GET", "DELETE"}


@pytest.mark.parametrize("path", [CHAT, "/shout"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_huge_body_is_refused(path: str, chunked: bool) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 100

    body: Any = parts() if chunked else b"x" * 3000
    route = ApiRoute(name="shout", path="/shout", handler=shout)
    response = ask("POST", path, settings=FrontendSettings(body_limit=1000), content=body, routes=[route])
    assert response.status_code == 413
    assert error(response)["code"] == "payload_too_large"
    assert "1000" in error(response)["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("invalid_request_error", 400),
        ("cancelled", 499),
        ("expired", 504),
        ("deadline_exceeded", 504),
        ("engine_error", 500),
        ("brand_new", 500),
    ],
)
def test_a_request_that_fails_before_its_first_token_is_an_http_error(
    stream: bool, code: str, status: int
) -> None:
    gateway = FakeGateway(lambda _: [claim(), failed(1, code, "because", "tools")])
    response = ask("POST", CHAT, gateway, json=chat(stream=stream))
    assert response.status_code == status
    assert error(response)["message"] == "because"
    assert error(response)["param"] == "tools"
    assert response.headers["x-request-id"] == gateway.submissions[0].request_id
    assert gateway.streams[0].closed.is_set()


def test_a_stream_that_fails_later_tells_it_in_band() -> None:
    gateway = FakeGateway(lambda _: [claim(), text(1, "a"), failed(2, "worker_lost", "gone")])
    response = ask("POST", CHAT, gateway, json=chat(stream=True))
    assert response.status_code == 200
    assert [data for _, data in sse(response.text)][-2]["error"]["code"] == "worker_lost"


def test_a_cancelled_request_without_an_error_is_499() -> None:
    gateway = FakeGateway(
        lambda _: [claim(), text(1, "a"), end(2, State.CANCELLED, finish_reason="cancelled")]
    )
    assert ask("POST", CHAT, gateway, json=chat()).status_code == 499


@pytest.mark.parametrize(
    ("refusal", "status", "after"),
    [(QueueFullError("full", retry_after=2.3), 429, "3"), (ServerUnavailableError("no Redis"), 503, "1")],
)
def test_a_refusal_at_the_queue_says_when_to_come_back(refusal: Any, status: int, after: str) -> None:
    gateway = FakeGateway()
    gateway.refusal = refusal
    response = ask("POST", CHAT, gateway, json=chat())
    assert (response.status_code, response.headers["retry-after"]) == (status, after)
    assert error(response)["code"] == refusal.code


def test_background_is_accepted_at_once() -> None:
    gateway = FakeGateway(lambda _: [])
    response = ask("POST", CHAT, gateway, json=chat(background=True, retention=60, abandon_after=1))
    (submission,) = gateway.submissions
    assert response.status_code == 202
    assert response.json() == {"id": submission.request_id, "status": "queued"}
    assert response.headers["location"] == f"/v1/requests/{submission.request_id}"
    options = submission.options
    assert (options.background, options.retention, options.abandon_after) == (True, 60, 1)


def test_an_error_of_our_own_is_a_500_that_does_not_show_secrets() -> None:
    gateway = FakeGateway(lambda _: 1 / 0)  # type: ignore[arg-type, return-value]
    response = ask("POST", CHAT, gateway, json=chat())
    assert response.status_code == 500
    assert response.headers["x-request-id"] in error(response)["message"]


def test_an_api_method_that_raises_is_a_500() -> None:
    response = ask("POST", "/fail", routes=[ApiRoute(name="fail", path="/fail", handler=fail)])
    assert response.status_code == 500
    assert response.headers["x-request-id"] in error(response)["message"]
    assert "secret" not in response.text


def test_the_rest_of_a_stream() -> None:
    async def work(client: httpx.AsyncClient) -> None:
        whole = sse((await client.post(CHAT, json=chat(stream=True))).text)
        path = f"/v1/requests/{gateway.submissions[0].request_id}/stream"
        assert sse((await client.get(path)).text) == whole
        for cut, (event, _) in enumerate(whole[:-1]):
            for options in ({"headers": {"last-event-id": event}}, {"params": {"after": event}}):
                rest = await client.get(path, **options)  # type: ignore[arg-type]
                assert sse(rest.text) == whole[cut + 1 :]
                assert rest.headers["x-request-id"] == gateway.submissions[0].request_id
        seen_all = await client.get(path, headers={"last-event-id": whole[-1][0] or ""})
        assert (seen_all.status_code, seen_all.text) == (204, "")  # an EventSource does not come again

    gateway = FakeGateway()
    run(work, gateway)


@pytest.mark.parametrize(
    ("refusal", "status"), [(StreamExpiredError("gone"), 410), (InvalidEventIdError("beyond the top"), 400)]
)
def test_what_cannot_be_resumed_says_why(refusal: Any, status: int) -> None:
    gateway = FakeGateway()
    gateway.refusal = refusal
    assert ask("GET", "/v1/requests/x/stream", gateway).status_code == status


def test_status_and_cancel() -> None:
    async def work(client: httpx.AsyncClient) -> None:
        await client.post(CHAT, json=chat())
        request_id = gateway.submissions[0].request_id
        status = (await client.get(f"/v1/requests/{request_id}")).json()
        assert (status["id"], status["status"], status["model"]) == (request_id, "running", "tiny")
        assert status["error"] is None
        gone = (await client.delete(f"/v1/requests/{request_id}", params={"purge": "true"})).json()
        assert gone["status"] == "cancelled"
        assert gone["error"]["code"] == "cancelled"
        assert gateway.cancelled == [(request_id, "", True)]

    gateway = FakeGateway()
    run(work, gateway)


def test_an_idempotent_repetition_answers_as_the_first_one() -> None:
    class Repeating(FakeGateway):
        async def submit(self, submission: Any) -> Any:
            stream = await super().submit(submission)
            stream.request_id, stream.render = "first", Render("chat", "first", "tiny", 77).encode()
            return stream

    gateway = Repeating()
    response = ask("POST", CHAT, gateway, json=chat(), headers={"idempotency-key": "k"})
    assert gateway.submissions[0].options.idempotency_key == "k"
    assert (response.json()["id"], response.json()["created"]) == ("chatcmpl-first", 77)
    assert response.headers["x-request-id"] == "first"


def test_health() -> None:
    gateway = FakeGateway()
    assert ask("GET", "/health", gateway).json() == {"status": "healthy"}
    assert ask("GET", "/live", gateway).status_code == 200
    ready = ask("GET", "/ready", gateway)
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    gateway.alive = False
    assert ask("GET", "/health", gateway).status_code == 503
    assert ask("GET", "/ready", gateway).status_code == 503
    assert ask("GET", "/live", gateway).status_code == 200


def test_health_without_a_server_is_a_503() -> None:
    class Cut(FakeGateway):
        async def healthy(self) -> bool:
            raise ServerUnavailableError("no Redis")

        async def ready(self) -> tuple[bool, dict[str, Any]]:
            raise ServerUnavailableError("no Redis")

    assert ask("GET", "/health", Cut()).json() == {"status": "unhealthy", "reason": "no Redis"}
    assert ask("GET", "/ready", Cut()).json() == {"ready": False, "reason": "no Redis"}


def test_metrics_without_a_server_are_those_of_the_process() -> None:
    class Cut(FakeGateway):
        async def measure(self) -> None:
            raise ServerUnavailableError("no Redis")

    assert "dynamo_tasks_http_requests_total" in ask("GET", "/metrics", Cut()).text


def test_metrics() -> None:
    async def work(client: httpx.AsyncClient) -> str:
        await client.post(CHAT, json=chat(stream=True))
        await client.post(CHAT, json=chat(n=-1))
        await client.get("/v1/models")
        return (await client.get("/metrics")).text

    found = run(work)
    for line in (
        'dynamo_tasks_http_requests_total{api="chat",status="200"}',
        'dynamo_tasks_http_requests_total{api="chat",status="400"}',
        'dynamo_tasks_http_requests_total{api="models",status="200"}',
        'dynamo_tasks_http_tokens_total{kind="completion",model="tiny"}',
        'dynamo_tasks_http_tokens_total{kind="prompt",model="tiny"}',
        'dynamo_tasks_time_to_first_token_seconds_count{model="tiny"}',
        'dynamo_tasks_http_in_flight{api="chat"} 0.0',
    ):
        assert line in found


class Point(msgspec.Struct):
    x: int
    y: int = 0


async def shout(text: str, times: int = 1) -> dict[str, Any]:
    return {"text": text.upper() * times}


def plain(point: Point) -> int:
    return point.x + point.y


async def count(until: int) -> AsyncIterator[int]:
    for number in range(until):
        yield number


def letters(word: str) -> Iterator[str]:
    yield from word


async def break_down(word: str) -> AsyncIterator[str]:
    yield word
    raise ValueError("broken")


async def fail() -> None:
    raise LookupError("secret")


async def nothing() -> None:
    return None


ROUTES = [
    ApiRoute(name=handler.__name__, path=f"/{handler.__name__}", handler=handler)
    for handler in (shout, plain, count, letters, break_down, nothing)
] + [
    ApiRoute(name="shout", path="/get_shout", handler=shout, method="GET"),
    ApiRoute(name="gone", path="/shout", handler=nothing, method="DELETE"),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "answer"),
    [
        ("POST", "/shout", {"text": "a", "times": 2}, {"text": "AA"}),
        ("POST", "/plain", {"point": {"x": 1, "y": 2}}, 3),
        ("POST", "/plain", {"x": 1, "y": 2}, 3),
        ("POST", "/nothing", None, None),
        ("POST", "/nothing", {}, None),
        ("DELETE", "/shout", None, None),
        ("GET", "/get_shout?text=a&times=3", None, {"text": "AAA"}),
    ],
)
def test_api_methods(method: str, path: str, body: Any, answer: Any) -> None:
    options = {} if body is None else {"json": body}
    response = ask(method, path, routes=ROUTES, **options)
    assert (response.status_code, response.json()) == (200, answer)
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("/count", 3, [0, 1, 2, "[DONE]"]),
        ("/count", {"until": 2}, [0, 1, "[DONE]"]),
        ("/letters", {"word": "ab"}, ["a", "b", "[DONE]"]),
    ],
)
def test_api_generators_stream(path: str, body: Any, answer: list[Any]) -> None:
    response = ask("POST", path, routes=ROUTES, json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [data for _, data in sse(response.text)] == answer


def test_an_api_generator_that_raises_ends_with_an_error() -> None:
    found = sse(ask("POST", "/break_down", routes=ROUTES, json={"word": "a"}).text)
    assert found[0][1] == "a"
    assert found[1][1]["error"]["message"] == "ValueError: broken"
    assert found[2][1] == "[DONE]"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/shout", {"times": 2}, "text"),
        ("/shout", {"text": "a", "tims": 2}, "tims"),
        ("/shout", {"text": "a", "times": "b"}, "times"),
        ("/shout", [1], None),
        ("/plain", {"point": {"x": "a"}}, "point.x"),
        ("/plain", None, "point"),
        ("/nothing", {"a": 1}, "a"),
    ],
)
def test_bad_arguments_are_named(path: str, body: Any, param: str | None) -> None:
    response = ask("POST", path, routes=ROUTES, **({} if body is None else {"json": body}))
    assert response.status_code == 400
    assert error(response)["param"] == param


@pytest.mark.parametrize("path", ["/v1/models", CHAT, "/shout"])
def test_a_path_can_be_taken_only_once(path: str) -> None:
    routes = [ApiRoute(name="a", path=path, handler=shout), ApiRoute(name="b", path="/shout", handler=shout)]
    with pytest.raises(ConfigError, match="is taken"):
        create_app(FakeGateway(), None, routes)


def test_bad_routes_are_refused() -> None:
    with pytest.raises(ConfigError, match="must begin with /"):
        ApiRoute(name="a", path="a", handler=shout)
    with pytest.raises(ConfigError, match="not one of"):
        ApiRoute(name="a", path="/a", handler=shout, kind="thing")
