"""The Processor as a component of its own: the request is the Processor's, the Worker's call is inside of it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.image_server import ImageServer, image_server
from tests.support.pictures import image_part, picture, text_part
from tests.support.processes import Frontend, Worker, together, until
from tests.support.server import RedisServer

NAMESPACE = "far-processor"
ENV = {"DYNAMO_NAMESPACE": NAMESPACE}
FAR = ("Processor.dynamo.enabled=true",)
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def pictures() -> Iterator[ImageServer]:
    with image_server() as server:
        yield server


@pytest.fixture(scope="module")
def far(redis_server: RedisServer, pictures: ImageServer) -> Iterator[Frontend]:
    slow = (
        "Worker.engine=mocker",
        "Worker.engine_args.token_delay_ms=5",
        "Worker.engine_args.max_model_len=500",
        "Worker.engine_args.images=true",
    )
    url = redis_server.url
    with together(
        Worker(url, settings=slow, env=ENV, name="worker"),
        Frontend(url, env=ENV, settings=FAR, ready="/live"),
    ) as (_, http):
        until(lambda: http.get("/v1/models")[1]["data"], 30, "the model is listed")
        status, _, body = http.request("POST", CHAT, _ask())
        assert (status, body["error"]["code"]) == (503, "no_instances")
        fetches = (
            f"Processor.image_hosts=[{pictures.base_url}]",
            "Processor.image_networks=[127.0.0.0/8]",
        )
        processor = "workers.agg:Processor"
        with Worker(url, service=processor, env=ENV, settings=(*FAR, *fetches), name="processor"):
            until(lambda: http.get("/ready")[0] == 200, 30, "ready")
            yield http


def _ask(**more: Any) -> dict[str, Any]:
    return {"model": "mocker", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]} | more


def test_the_text_is_that_of_the_aggregated_graph(far: Frontend, redis_server: RedisServer) -> None:
    with Frontend(redis_server.url, env=ENV) as near:
        expected = near.request("POST", CHAT, _ask())[2]
        whole = far.request("POST", CHAT, _ask())[2]
        assert whole["choices"] == expected["choices"]
        assert whole["usage"]["total_tokens"] == expected["usage"]["total_tokens"]
        completion = {"model": "mocker", "prompt": "once", "max_tokens": 6, "n": 2}
        answers = [http.request("POST", "/v1/completions", completion)[2]["choices"] for http in (near, far)]
        assert answers[0] == answers[1]
    chunks = [json.loads(data) for _, data in far.events("POST", CHAT, _ask(stream=True)) if data != "[DONE]"]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text == expected["choices"][0]["message"]["content"]


def test_what_may_be_shortened_is_shortened_there(far: Frontend, redis_server: RedisServer) -> None:
    """Before, `truncation: auto` was refused as too long, and so was a message with a limit beyond the context."""
    long = [{"role": "user", "content": f"{number} " + "word " * 20} for number in range(12)]
    asked = {"model": "mocker", "input": long, "max_output_tokens": 16, "truncation": "auto", "store": False}
    message = {"model": "mocker", "max_tokens": 9000, "messages": [{"role": "user", "content": "hi"}]}
    with Frontend(redis_server.url, env=ENV) as near:
        for path, body in (("/v1/responses", asked), ("/v1/messages", message)):
            texts = []
            for http in (near, far):
                status, _, answer = http.request("POST", path, body)
                assert status == 200, answer
                texts.append(answer.get("content") or answer["output"][0]["content"])
            assert texts[0] == texts[1]
    refused = far.request("POST", "/v1/responses", {**asked, "truncation": "disabled"})
    assert (refused[0], refused[2]["error"]["code"]) == (400, "context_length_exceeded")


def test_the_request_id_is_the_processors(far: Frontend, redis_server: RedisServer) -> None:
    _, headers, _ = far.request("POST", CHAT, _ask())
    info = far.get(f"/v1/requests/{headers['x-request-id']}")[1]
    assert info["endpoint"] == f"{NAMESPACE}.Processor.chat/completions"
    child = uuid.uuid5(uuid.UUID(headers["x-request-id"]), "1")
    assert far.get(f"/v1/requests/{child}")[1]["endpoint"] == f"{NAMESPACE}.Worker.generate"


def test_errors_of_the_processor_come_back(far: Frontend) -> None:
    for stream in (False, True):
        body = _ask(messages=[{"role": "user", "content": "long " * 200}], stream=stream)
        status, _, answer = far.request("POST", CHAT, body)
        assert (status, answer["error"]["param"]) == (400, "messages")


def test_a_cancelled_request_cancels_the_workers_part(far: Frontend) -> None:
    stream = far.events("POST", CHAT, _ask(stream=True, max_tokens=400))
    chunks = (json.loads(data) for _, data in stream)
    # The first text: by then the worker has its part.
    request_id = next(one["id"] for one in chunks if one["choices"][0]["delta"].get("content"))
    request_id = request_id.removeprefix("chatcmpl-")
    far.request("DELETE", f"/v1/requests/{request_id}")
    list(stream)
    child = uuid.uuid5(uuid.UUID(request_id), "1")
    until(lambda: far.get(f"/v1/requests/{child}")[1]["status"] == "cancelled", 30, "the child is cancelled")


def test_embeddings_go_straight_to_the_worker(far: Frontend) -> None:
    status, headers, body = far.request("POST", "/v1/embeddings", {"model": "mocker", "input": "hi"})
    assert (status, len(body["data"])) == (200, 1)
    assert far.get(f"/v1/requests/{headers['x-request-id']}")[1]["endpoint"] == f"{NAMESPACE}.Worker.embed"


def test_the_processor_tokenizes(far: Frontend) -> None:
    status, _, body = far.request("POST", "/tokenize", {"prompt": "hé"})
    assert (status, body["tokens"]) == (200, [104, 195, 169])
    assert far.request("POST", "/detokenize", {"tokens": body["tokens"]})[2] == {"prompt": "hé"}
    status, _, body = far.request("POST", "/tokenize", {"prompt": "long " * 2000})
    assert (status, body["error"]["code"]) == (400, "context_length_exceeded")


def test_images_are_read_and_fetched_by_the_processor(far: Frontend, pictures: ImageServer) -> None:
    pictures.pictures["/a.png"] = picture(7)
    url = {"type": "image_url", "image_url": {"url": f"{pictures.base_url}/a.png"}}

    def asked(*parts: Any) -> tuple[int, Any]:
        messages = [{"role": "user", "content": [text_part("?"), *parts]}]
        status, _, body = far.request("POST", CHAT, _ask(messages=messages))
        return status, body

    answers = [asked(image_part(picture(7)))[1], asked(url)[1], asked(image_part(picture(8)))[1]]
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    assert texts[0] == texts[1] != texts[2]
    assert pictures.asked == ["/a.png"]
    status, body = asked({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}})
    assert (status, body["error"]["param"]) == (400, "messages[0].content[1].image_url.url")
    assert "fetches no images from example.com" in body["error"]["message"]
