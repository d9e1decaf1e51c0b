"""Chats with images at the routes: which models take them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from dynamo_tasks.engines.images.messages import image_places
from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.openai import ChatRequest, parse_request
from tests.support.frontend_fakes import FakeGateway, in_process
from tests.support.pictures import image_part, picture, text_part

RED = image_part(picture(255))


def asked(gateway: FakeGateway, *parts: Any) -> Any:
    async def main() -> Any:
        async with in_process(gateway) as client:
            body = {"model": "tiny", "messages": [{"role": "user", "content": list(parts)}]}
            return await client.post("/v1/chat/completions", json=body)

    return asyncio.run(main())


def seeing(gateway: FakeGateway, name: str, images: int) -> None:
    model = gateway.served["tiny"]
    card = msgspec.structs.replace(model.card, name=name, images=images)
    gateway.served[name] = msgspec.structs.replace(model, card=card)


def test_a_model_of_text_says_which_others_take_images() -> None:
    gateway = FakeGateway()
    error = asked(gateway, text_part("?"), RED).json()["error"]
    assert error["param"] == "messages[0].content[1].type"
    assert error["message"].endswith("model 'tiny' takes text alone; no model that is served takes images")
    for name in ("sight", "eyes"):
        seeing(gateway, name, 1)
    answer = asked(gateway, text_part("?"), RED)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith("models that take images: eyes, sight")
    assert gateway.submissions == []


def test_a_model_that_takes_fewer() -> None:
    gateway = FakeGateway()
    seeing(gateway, "tiny", 2)
    assert asked(gateway, RED, RED).status_code == 200
    answer = asked(gateway, RED, text_part("?"), RED, RED)
    assert answer.json()["error"]["param"] == "messages[0].content[3]"
    assert "takes at most 2" in answer.json()["error"]["message"]


@pytest.mark.parametrize("value", ["https://a.example/b.png", {"url": "data:,x", "detail": "low"}])
def test_both_spellings_of_an_image(value: Any) -> None:
    content = [{"type": "image_url", "image_url": value}, text_part("?")]
    messages = [{"role": "system", "content": "hi"}, {"role": "user", "content": content}]
    parse_request(ChatRequest, {"model": "m", "messages": messages})
    assert image_places(messages) == ["messages[1].content[0]"]


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (None, "messages[0].content[0].image_url"),
        (3, "messages[0].content[0].image_url"),
        ({}, "messages[0].content[0].image_url.url"),
        ({"url": ""}, "messages[0].content[0].image_url.url"),
        ({"url": "x", "detail": "best"}, "messages[0].content[0].image_url.detail"),
    ],
)
def test_a_bad_image_names_its_field(value: Any, param: str) -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": value}]}]
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(ChatRequest, {"model": "m", "messages": messages})
    assert caught.value.param == param
