"""Bodies of ``/tokenize`` and ``/detokenize``, Azure's paths, and routes that step back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dynamo_tasks.engines.text.payload import parse_generate
from dynamo_tasks.engines.text.tokenizer import load_tokenizer
from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.frontend.access.configured import ApiKey
from dynamo_tasks.frontend.api_routes import ApiRoute
from dynamo_tasks.frontend.openai.azure import translate
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.protocol.http.bodies import PASSED
from dynamo_tasks.protocol.http.limits import Allowance, KeyLimits
from dynamo_tasks.protocol.http.tokens import parse_detokenize, parse_tokenize
from dynamo_tasks.protocol.instances import ModelCard
from tests.support.frontend_fakes import FakeGateway, chat, in_process

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": MESSAGES}, "messages"),
        ({"prompt": ["a"]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
        ({"messages": []}, "messages"),
        ({"prompt": "a", "add_special_tokens": "yes"}, "add_special_tokens"),
        ({"prompt": "a", "add_special_token": True}, "add_special_token"),
        ({"messages": MESSAGES, "chat_template": "x"}, "chat_template"),
        ({"messages": MESSAGES, "continue_final_message": True}, "continue_final_message"),
        ({"messages": MESSAGES, "tools": 3}, "tools"),
        ({"prompt": "a", "model": 3}, "model"),
    ],
)
def test_bad_bodies(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_tokenize(json.dumps(body).encode(), "tiny")
    assert caught.value.param == param


def test_a_model_must_be_named_where_there_are_several() -> None:
    for parse, raw in ((parse_tokenize, b'{"prompt": "a"}'), (parse_detokenize, b'{"tokens": [1]}')):
        assert parse(raw, "tiny")[0] == "tiny"
        with pytest.raises(InvalidRequestError, match="model: this field is required"):
            parse(raw, "")
    with pytest.raises(InvalidRequestError, match="tokens: must be a list"):
        parse_detokenize(b'{"tokens": "a"}', "tiny")


def test_what_is_passed_on_is_known_to_engines() -> None:
    """A field that the edge lets pass unchecked is never taken for a misspelt one later."""
    refused = []
    for name in sorted(PASSED):
        try:
            parse_generate({"prompt": "a", name: True}, load_tokenizer("bytes"), ModelCard("m"))
        except InvalidRequestError as error:
            refused.append(str(error))
    assert not [text for text in refused if "unknown field" in text]


def test_special_tokens_are_left_out_on_request() -> None:
    class Counted:
        vocab_size, chat_template, tool_template = 9, None, None
        special_tokens: dict[str, str] = {}  # noqa: RUF012

        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return [0] * add_special_tokens + [1]

        def least_tokens(self, text: str) -> int:
            return 0

    def ids(**payload: Any) -> list[int]:
        return parse_generate(payload, Counted(), ModelCard("m")).prompt_token_ids  # type: ignore[arg-type]

    assert ids(prompt="a") == [0, 1]
    assert ids(prompt="a", add_special_tokens=False) == [1]
    assert ids(messages=MESSAGES) == [1]
    assert ids(messages=MESSAGES, add_special_tokens=True) == [0, 1]
    with pytest.raises(InvalidRequestError, match="true or false"):
        ids(prompt="a", add_special_tokens="no")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/openai/deployments/llama/chat/completions", ("/v1/chat/completions", "llama")),
        ("/openai/deployments/org/llama/completions", ("/v1/completions", "org/llama")),
        ("/openai/deployments/llama/embeddings", ("/v1/embeddings", "llama")),
        ("/openai/deployments//completions", ("/openai/deployments//completions", "")),
        ("/openai/deployments/llama/images", ("/openai/deployments/llama/images", "")),
        ("/openai/models", ("/v1/models", "")),
        ("/openai/v1/responses", ("/v1/responses", "")),
    ],
)
def test_paths_of_azure(path: str, expected: tuple[str, str]) -> None:
    assert translate(path) == expected


def test_the_deployment_counts_whatever_the_body_says() -> None:
    async def main() -> None:
        gateway = FakeGateway()
        async with in_process(gateway) as client:
            for body in (chat(model="other"), {**chat(), "model": None}):
                answer = await client.post(
                    "/openai/deployments/tiny/chat/completions?api-version=1", json=body
                )
                assert answer.status_code == 200
                assert answer.json()["model"] == "tiny"

    asyncio.run(main())


def test_methods_of_a_service_come_first() -> None:
    async def version() -> str:
        return "mine"

    async def main() -> None:
        routes = [ApiRoute(name="version", path="/version", handler=version, method="GET")]
        async with in_process(FakeGateway(), routes=routes) as client:
            assert (await client.get("/version")).json() == "mine"
        async with in_process(FakeGateway()) as client:
            assert "version" in (await client.get("/version")).json()

    asyncio.run(main())


def test_a_key_at_its_limit_gets_no_tokens() -> None:
    async def main() -> None:
        gateway = FakeGateway()
        keys = FrontendSettings(api_keys=(ApiKey("k", KeyLimits(requests_per_minute=1)),))
        async with in_process(gateway, keys) as client:
            body = {"model": "tiny", "prompt": "a"}
            assert (await client.post("/tokenize", json=body)).status_code == 401
            answer = await client.post("/tokenize", json=body, headers={"api-key": "k"})
            assert answer.json() == {"asked": {"prompt": "a"}, "model": "tiny"}
            gateway.allowance = Allowance(limit=1, reason="1 request per minute", retry_after=5)
            assert (await client.post("/tokenize", json=body, headers={"api-key": "k"})).status_code == 429

    asyncio.run(main())
