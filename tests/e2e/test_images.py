"""Images in chats by the real ``openai`` client: the mocker takes them as vLLM does, and looks at none."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.support.image_server import ImageServer, image_server
from tests.support.pictures import data_url, image_part, picture, png, text_part
from tests.support.processes import Frontend, Worker, environment, together
from tests.support.server import RedisServer

NAMESPACE = "images"
ENV = {"DYNAMO_NAMESPACE": NAMESPACE}
SIGHT = ("Worker.engine=mocker", "Worker.engine_args.images=true", "Worker.engine_args.token_delay_ms=20")
ASKED = text_part("What is this?")
RED, BLUE = picture(255), picture(0, 0, 255)


@dataclass
class Seen:
    """A worker that takes images, a frontend that fetches from a web server of the test."""

    server: RedisServer
    workers: list[Worker]
    http: Frontend
    images: ImageServer

    def link(self, path: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": f"{self.images.base_url}{path}"}}


@pytest.fixture(scope="module")
def seen(redis_server: RedisServer) -> Iterator[Seen]:
    with image_server() as images, contextlib.ExitStack() as stack:
        http = (
            f"Processor.image_hosts=[{images.base_url}]", "Processor.image_networks=[127.0.0.0/8]",
            "Processor.max_images=3", "Processor.max_image_bytes=100000",
        )  # fmt: skip
        worker, frontend = stack.enter_context(
            together(
                Worker(redis_server.url, settings=SIGHT, env=ENV),
                Frontend(redis_server.url, env=ENV, settings=http),
            )
        )
        yield Seen(redis_server, [worker], frontend, images)


@pytest.fixture
def client(seen: Seen) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{seen.http.base_url}/v1", api_key="none", max_retries=0) as made:
        yield made


def _chat(client: openai.OpenAI, *parts: Any, **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": list(parts)}]
    return client.chat.completions.create(**{"model": "mocker", "messages": messages, "max_tokens": 8} | more)


def test_a_model_says_that_it_takes_images(seen: Seen) -> None:
    assert seen.http.get("/v1/models")[1]["data"][0]["input_modalities"] == ["text", "image"]


def test_the_answer_follows_from_the_images_wherever_they_come_from(
    client: openai.OpenAI, seen: Seen
) -> None:
    seen.images.pictures |= {"/red.png": RED}
    red = _chat(client, image_part(RED, detail="high"), ASKED)
    blue = _chat(client, image_part(BLUE), ASKED)
    fetched = _chat(client, seen.link("/red.png"), ASKED)
    streamed = list(_chat(client, image_part(RED), ASKED, stream=True))
    texts = [answer.choices[0].message.content for answer in (red, blue, fetched)]
    assert texts[0] == texts[2] == "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert texts[0] != texts[1]
    assert seen.images.asked == ["/red.png"]
    large = _chat(client, image_part(picture(1, width=300, height=30)), ASKED)
    assert large.usage.prompt_tokens - red.usage.prompt_tokens == 11 * 2 - 1  # squares of 28 pixels


@pytest.mark.parametrize(
    ("parts", "param", "problem"),
    [
        ([image_part(b"no image")], "messages[0].content[0].image_url.url", "is no image"),
        ([ASKED, image_part(png(9000, 9000))], "messages[0].content[1].image_url.url", "pixels"),
        ([image_part(RED)] * 4, "messages[0].content[3].image_url.url", "at most 3 images"),
        ([image_part(RED + bytes(100_000))], "messages[0].content[0].image_url.url", "100000 bytes"),
        ([image_part(RED, detail="most")], "messages[0].content[0].image_url.detail", "auto, low, high"),
        ([{"type": "image_url"}], "messages[0].content[0].image_url", "required"),
        ([{"type": "input_audio"}], "messages[0].content[0].type", "must be 'text'"),
        ([{"type": "image"}], "messages[0].content[0].type", "send 'image_url'"),
        (
            [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}}],
            "messages[0].content[0].image_url.url",
            "fetches no images from 169.254.169.254",
        ),
    ],
)
def test_refusals(client: openai.OpenAI, parts: list[Any], param: str, problem: str) -> None:
    with pytest.raises(openai.BadRequestError, match=problem) as caught:
        _chat(client, *parts)
    assert caught.value.param == param


def test_an_image_that_is_not_there(client: openai.OpenAI, seen: Seen) -> None:
    with pytest.raises(openai.BadRequestError, match="its server answers 404") as caught:
        _chat(client, ASKED, seen.link("/missing.png"))
    assert caught.value.param == "messages[0].content[1].image_url.url"


def test_the_same_images_by_other_apis(client: openai.OpenAI, seen: Seen) -> None:
    seen.images.pictures |= {"/blue.png": BLUE}
    text = _chat(client, ASKED, image_part(RED), seen.link("/blue.png")).choices[0].message.content
    url = f"{seen.images.base_url}/blue.png"
    parts = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": data_url(RED), "detail": "low"},
        {"type": "input_image", "image_url": url},
    ]
    asked: Any = [{"role": "user", "content": parts}]
    response = client.responses.create(model="mocker", input=asked, max_output_tokens=8)
    assert response.output_text == text
    kept = client.responses.input_items.list(response.id).data[0]
    assert kept.model_dump()["content"][1]["image_url"] == data_url(RED)
    followed: Any = {"model": "mocker", "input": "And?", "max_output_tokens": 8}
    after = client.responses.create(**followed, previous_response_id=response.id)
    turns: Any = [
        {"role": "user", "content": [ASKED, image_part(RED), seen.link("/blue.png")]},
        {"role": "assistant", "content": text},
        {"role": "user", "content": "And?"},
    ]
    chat = client.chat.completions.create(model="mocker", messages=turns, max_tokens=8)
    assert after.output_text == chat.choices[0].message.content
    source = {"type": "base64", "media_type": "image/png", "data": data_url(RED).partition(",")[2]}
    blocks = [
        ASKED,
        {"type": "image", "source": source},
        {"type": "image", "source": {"type": "url", "url": url}},
    ]
    body: Any = {"model": "mocker", "max_tokens": 8, "messages": [{"role": "user", "content": blocks}]}
    _, _, message = seen.http.request("POST", "/v1/messages", body)
    assert message["content"] == [{"type": "text", "text": text}]
    counted = seen.http.request("POST", "/v1/messages/count_tokens", body)[2]["input_tokens"]
    used = message["usage"]["input_tokens"] + message["usage"]["cache_read_input_tokens"]
    assert counted - used == 2 * (len("<image>") - 1)  # each of them is one token, and its placeholder seven
    source["data"] = "QUJD"
    status, _, refused = seen.http.request("POST", "/v1/messages", body)
    assert status == 400
    assert "messages[0].content[1].source.data is no image" in refused["error"]["message"]


def test_a_call_without_http(client: openai.OpenAI, seen: Seen) -> None:
    text = _chat(client, image_part(RED), ASKED).choices[0].message.content
    prompt = "user: <image>\nWhat is this?\nassistant:"
    given = {"prompt": prompt, "images": [data_url(RED).partition(",")[2]], "max_tokens": 8}
    command = [
        sys.executable,
        "-m",
        "dynamo_tasks",
        "call",
        f"{NAMESPACE}.Worker.generate",
        json.dumps(given),
    ]
    called = subprocess.run(
        command, env=environment(seen.server.url), capture_output=True, text=True, check=True, timeout=60
    )
    assert text in called.stdout


def test_the_text_goes_on_after_a_kill(client: openai.OpenAI, seen: Seen) -> None:
    """The images are in the request: whichever worker goes on with it has them."""
    parts = (image_part(BLUE), ASKED, image_part(RED))
    expected = _chat(client, *parts, max_tokens=60).choices[0].message.content
    with Worker(seen.server.url, settings=SIGHT, env=ENV, name="second"):
        got = ""
        for chunk in _chat(client, *parts, max_tokens=60, stream=True):
            got += chunk.choices[0].delta.content or "" if chunk.choices else ""
            if len(got) > 20 and seen.workers:
                seen.workers.pop().kill()
    assert got == expected
