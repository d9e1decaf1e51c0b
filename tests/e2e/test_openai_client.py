"""The real ``openai`` client against ``dynamo-tasks serve``: what its users call, and what they catch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.processes import until
from tests.support.serve import Serve
from tests.support.web import ask

MODEL = "mocker"
ASK: list[Any] = [{"role": "user", "content": "tell me a story"}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    home: Path = tmp_path_factory.mktemp("home")
    flags = (
        "--Worker.engine=mocker", "--Worker.engine_args.token_delay_ms=1", "--Worker.engine_args.max_model_len=4096",
        "--api-key", "secret", "--Frontend.body_limit=200000",
    )  # fmt: skip
    with Serve(home, *flags) as process:
        yield process


@pytest.fixture
def client(served: Serve) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.base_url}/v1", api_key="secret", max_retries=0) as made:
        yield made


def _chat(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": MODEL, "messages": ASK, "max_tokens": 12} | more)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).object == "model"


def test_chat(client: openai.OpenAI) -> None:
    answer = _chat(client)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_chat_streamed_is_the_same_text(client: openai.OpenAI) -> None:
    whole = _chat(client).choices[0].message.content
    chunks = list(_chat(client, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_comes_in_a_last_chunk_without_choices(client: openai.OpenAI) -> None:
    chunks = list(_chat(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 12
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_several_choices(client: openai.OpenAI) -> None:
    answer = _chat(client, n=3, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    streamed: dict[int, str] = {}
    for chunk in _chat(client, n=3, seed=5, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] = streamed.get(choice.index, "") + (choice.delta.content or "")
    assert streamed == {choice.index: choice.message.content for choice in answer.choices}


def test_a_seed_decides_the_text(client: openai.OpenAI) -> None:
    texts = [_chat(client, seed=seed).choices[0].message.content for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_stop_ends_the_text_before_it(client: openai.OpenAI) -> None:
    whole = _chat(client, max_tokens=40).choices[0].message.content
    word = whole[len(whole) // 2 :].split()[0]
    answer = _chat(client, max_tokens=40, stop=[word])
    assert answer.choices[0].message.content == whole[: whole.index(word)]
    assert answer.choices[0].finish_reason == "stop"


def test_max_completion_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=5)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="once upon", max_tokens=8)
    assert answer.object == "text_completion"
    chunks = list(client.completions.create(model=MODEL, prompt="once upon", max_tokens=8, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=["one", "two", "one"])
    assert [row.index for row in answer.data] == [0, 1, 2]
    assert answer.data[0].embedding == answer.data[2].embedding != answer.data[1].embedding
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens
    floats = client.embeddings.create(model=MODEL, input="one", encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(answer.data[0].embedding, abs=1e-6)


def test_the_request_id_is_the_task_id(client: openai.OpenAI, served: Serve) -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=ASK, max_tokens=2)
    request_id = raw.headers["x-request-id"]
    info = client.get(f"/requests/{request_id}", cast_to=object)
    assert info["status"] == "succeeded"  # type: ignore[index]
    assert raw.parse().id.endswith(request_id)


def test_the_async_client(served: Serve) -> None:
    async def main() -> tuple[str, list[str]]:
        async with openai.AsyncOpenAI(
            base_url=f"{served.base_url}/v1", api_key="secret", max_retries=0
        ) as client:
            whole = await client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=30)

            async def streamed() -> str:
                stream = await client.chat.completions.create(
                    model=MODEL, messages=ASK, max_tokens=30, stream=True
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return whole.choices[0].message.content or "", await asyncio.gather(
                *[streamed() for _ in range(20)]
            )

    whole, streams = asyncio.run(main())
    assert set(streams) == {whole}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "king", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"top_p": -1}, "top_p"),
    ({"n": 0}, "n"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"seed": 1.5}, "seed"),
    ({"extra_body": {"abandon_after": -1}}, "abandon_after"),
    ({"extra_body": {"priority": 10}}, "priority"),
    ({"extra_body": {"max_token": 3}}, "max_token"),
    ({"extra_body": {"timeout": 0}}, "timeout"),
    ({"messages": [{"role": "user", "content": "long " * 2000}]}, "messages"),
]


@pytest.mark.parametrize(
    ("more", "param"), BAD, ids=[f"{param}-{number}" for number, (_, param) in enumerate(BAD)]
)
def test_bad_fields_are_named(client: openai.OpenAI, more: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            _chat(client, **{"stream": stream} | more)
        assert caught.value.param == param
        assert caught.value.type == "invalid_request_error"


def test_an_unknown_model_lists_those_served(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=MODEL) as caught:
        _chat(client, model="gpt-17")
    assert caught.value.code == "model_not_found"


def test_a_wrong_key(served: Serve) -> None:
    with openai.OpenAI(base_url=f"{served.base_url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            _chat(client)
        assert caught.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_a_body_over_the_limit(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        _chat(client, messages=[{"role": "user", "content": "x" * 300_000}])
    assert caught.value.status_code == 413


def test_a_deadline(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        _chat(client, max_tokens=3000, extra_body={"timeout": 0.3})
    assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")
    with pytest.raises(openai.APIError) as streamed:
        list(_chat(client, max_tokens=3000, stream=True, extra_body={"timeout": 0.5}))
    assert streamed.value.code == "deadline_exceeded"


def test_the_clients_own_timeout_ends_the_request(client: openai.OpenAI, served: Serve) -> None:
    with pytest.raises(openai.APITimeoutError):
        _chat(client, max_tokens=3000, timeout=0.3, extra_body={"abandon_after": 0})
    until(lambda: not any(one["in_flight"] for one in served.instances()), what="nothing runs on")


def test_the_azure_clients(served: Serve, client: openai.OpenAI) -> None:
    expected = _chat(client).choices[0].message.content
    ready = {"azure_endpoint": served.base_url, "api_version": "2024-10-21", "max_retries": 0}
    with openai.AzureOpenAI(api_key="secret", **ready) as azure:
        assert _chat(azure).choices[0].message.content == expected
        streamed = _chat(azure, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == expected
        text = azure.completions.create(model=MODEL, prompt="once upon", max_tokens=8).choices[0].text
        assert (
            text == client.completions.create(model=MODEL, prompt="once upon", max_tokens=8).choices[0].text
        )
        assert azure.embeddings.create(model=MODEL, input="one").data[0].embedding
        assert [model.id for model in azure.models.list()] == [MODEL]
        with pytest.raises(openai.NotFoundError, match="gpt-17"):
            _chat(azure, model="gpt-17")
    with openai.AzureOpenAI(api_key="secret", azure_deployment=MODEL, **ready) as azure:
        assert _chat(azure, model="whatever the code says").choices[0].message.content == expected
    with openai.AzureOpenAI(api_key="wrong", **ready) as azure, pytest.raises(openai.AuthenticationError):
        _chat(azure)

    async def asynchronous() -> str | None:
        async with openai.AsyncAzureOpenAI(api_key="secret", **ready) as azure:
            answer = await azure.chat.completions.create(model=MODEL, messages=ASK, max_tokens=12)
            return answer.choices[0].message.content

    assert asyncio.run(asynchronous()) == expected


def test_tokens_of_texts_and_chats(served: Serve, client: openai.OpenAI) -> None:
    def post(path: str, body: Any, **headers: str) -> tuple[int, Any]:
        status, _, answer = ask(served.port, "POST", path, body, {"api-key": "secret", **headers})
        return status, answer

    found = {"count": 3, "max_model_len": 4096, "tokens": [104, 195, 169], "token_strs": None}
    assert post("/tokenize", {"model": MODEL, "prompt": "hé"}) == (200, found)
    assert post("/tokenize", {"prompt": "hé"}) == (200, found)
    named = {"return_token_strs": True, "add_special_tokens": False, "prompt": "h\n"}
    assert post("/tokenize", named)[1]["token_strs"] == ["h", "<0x0A>"]
    assert post("/detokenize", {"model": MODEL, "tokens": [104, 195, 169]}) == (200, {"prompt": "hé"})
    chat = post("/tokenize", {"messages": ASK})[1]
    assert chat["count"] == len(chat["tokens"]) == _chat(client).usage.prompt_tokens
    bare = post("/tokenize", {"messages": ASK, "add_generation_prompt": False})[1]
    assert bare["count"] < chat["count"]
    assert post("/detokenize", {"tokens": chat["tokens"]})[1]["prompt"].endswith("assistant:")
    assert post("/tokenize", {"model": "gpt-17", "prompt": "x"})[0] == 404
    assert post("/tokenize", {"prompt": "x" * 9000})[1]["error"]["code"] == "context_length_exceeded"
    assert post("/detokenize", {"tokens": [256]})[1]["error"]["param"] == "tokens[0]"
    assert post("/tokenize", {"prompt": "x"}, **{"x-api-key": "another"})[0] == 401


def test_release_and_ping(served: Serve) -> None:
    assert ask(served.port, "GET", "/version")[0] == 401
    assert ask(served.port, "GET", "/version", headers={"x-api-key": "secret"})[2] == {"version": "0.1.0"}
    for method in ("GET", "POST"):
        assert ask(served.port, method, "/ping")[::2] == (200, {"status": "healthy"})


def test_completions_of_several_prompts(client: openai.OpenAI) -> None:
    prompts, asked = ["once upon", "a time", "x"], {"model": MODEL, "max_tokens": 6, "n": 2, "logprobs": 2}
    whole: Any = client.completions.create(prompt=prompts, **asked)
    alone = [client.completions.create(prompt=prompt, **asked).choices for prompt in prompts]
    assert [choice.text for choice in whole.choices] == [choice.text for two in alone for choice in two]
    assert [choice.index for choice in whole.choices] == list(range(6))
    counts = (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens)
    assert counts == (16, 36, 52)
    texts, ends, usage = [""] * 6, [""] * 6, None
    names: list[list[str]] = [[] for _ in range(6)]
    more = {"stream": True, "stream_options": {"include_usage": True}}
    for chunk in client.completions.create(prompt=prompts, **asked | more):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            names[choice.index] += choice.logprobs.tokens if choice.logprobs else []
            ends[choice.index] += choice.finish_reason or ""
    assert texts == [choice.text for choice in whole.choices]
    assert names == [choice.logprobs.tokens for choice in whole.choices]
    assert (ends, usage) == (["length"] * 6, whole.usage)
    echoed = client.completions.create(model=MODEL, prompt=prompts, echo=True, max_tokens=3)
    assert [choice.text for choice in echoed.choices] == [
        prompt + choice.text[:3] for prompt, choice in zip(prompts, whole.choices[::2], strict=True)
    ]
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="x", echo=True, logprobs=1)
    assert caught.value.param == "echo"
