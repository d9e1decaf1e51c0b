"""Images in chats, on a tiny model that takes them."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
import redis

from benchmarks.tiny_vision_model import make_tiny_vision_model
from dynamo_tasks.engines import create_engine
from dynamo_tasks.engines.text.payload import tokenized
from dynamo_tasks.errors import ContextLengthError, InvalidRequestError
from dynamo_tasks.runtime.inspect import snapshot
from dynamo_tasks.store.keys import Keys
from dynamo_tasks.store.ledger.fields import Field
from tests.support.pictures import data_url, image_part, picture, png, text_part
from tests.support.processes import Frontend, Worker, until
from tests.support.server import RedisServer
from tests.vllm.conftest import ENGINE_ARGS, Bench

RED, BLUE, WIDE = picture(255), picture(0, 0, 255), picture(255, width=64, height=20)
ASKED = text_part("What is this?")


@pytest.fixture(scope="module")
def vision_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_vision_model(tmp_path_factory.mktemp("vision") / "tiny-vision")


@pytest.fixture(scope="module")
def sight(vision_model: Path) -> Iterator[Bench]:
    """An engine that takes up to three images."""
    given = {**ENGINE_ARGS, "limit_mm_per_prompt": {"image": 3}}
    with asyncio.Runner() as runner:
        engine = create_engine("vllm", model=str(vision_model), served_model_name="sight", **given)
        runner.run(engine.start())
        try:
            yield Bench(runner, engine)
        finally:
            runner.run(engine.stop())


def chat(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": list(parts)}]
    return {"messages": messages, "temperature": 0, "max_tokens": 16, "ignore_eos": True, **more}


def test_the_card_says_what_the_model_takes(sight: Bench) -> None:
    card = sight.engine.card
    assert (card.images, card.image_placeholder) == (3, "<image>")


def test_the_answer_follows_from_the_image(sight: Bench) -> None:
    answers = [sight.answer(chat(image_part(data), ASKED))[1] for data in (RED, BLUE, WIDE, RED)]
    assert answers[0] == answers[3]
    assert len({tuple(ids) for ids in answers}) == 3
    nothing = sight.answer(chat(ASKED))[1]
    assert nothing not in answers


def test_usage_counts_the_tokens_of_images(sight: Bench) -> None:
    def used(*parts: dict[str, Any]) -> int:
        usage = sight.deltas(chat(*parts, ASKED))[-1].usage
        assert usage is not None
        return usage["prompt_tokens"]

    one, two = used(image_part(RED)), used(image_part(RED), image_part(BLUE))
    assert one - used() > 20
    assert two - one == one - used()
    assert used(image_part(WIDE)) != one


def test_images_stand_where_their_parts_stand(sight: Bench) -> None:
    first = sight.answer(chat(image_part(RED), image_part(BLUE), ASKED))[1]
    turned = sight.answer(chat(image_part(BLUE), image_part(RED), ASKED))[1]
    apart = sight.answer(chat(image_part(RED), ASKED, image_part(BLUE)))[1]
    assert len({tuple(first), tuple(turned), tuple(apart)}) == 3


@pytest.mark.parametrize("change", [{}, {"n": 2}, {"presence_penalty": 1.0}, {"logprobs": 1}], ids=str)
def test_a_continued_answer_is_the_uninterrupted_one(sight: Bench, change: dict[str, Any]) -> None:
    payload = chat(image_part(WIDE), ASKED, image_part(BLUE), **change)
    for index in range(change.get("n", 1)):
        whole = [t for d in sight.deltas(payload, request_id="r") if d.index == index for t in d.token_ids]
        for position in (1, 7, 15, 16):
            rest = sight.deltas(payload, request_id="r", output_token_ids={index: whole[:position]})
            assert whole[:position] + [t for d in rest if d.index == index for t in d.token_ids] == whole
            assert rest[-1].usage == sight.deltas(payload, request_id="r")[-1].usage | {
                "cached_tokens": rest[-1].usage["cached_tokens"]
            }


def test_a_placeholder_among_the_emitted_ids_is_text(sight: Bench) -> None:
    """A model may write the token that stands for an image; its answer is continued all the same."""
    [image] = sight.engine.tokenizer.encode("<image>", add_special_tokens=False)
    payload = chat(image_part(RED), ASKED)
    before = [400, image, 401]
    ids = sight.answer(payload, output_token_ids={0: before})[1]
    assert len(ids) == 16 - len(before)


def test_a_prepared_payload_says_the_same(sight: Bench) -> None:
    """As it comes from a frontend: token ids, and images in base64."""
    payload = chat(image_part(RED), ASKED, image_part(WIDE))
    prepared = tokenized(payload, sight.engine.tokenizer, sight.engine.card)
    assert prepared["images"] == [RED, WIDE]
    sent = {**prepared, "images": [base64.b64encode(one).decode() for one in prepared["images"]]}
    assert sight.answer(sent) == sight.answer(prepared) == sight.answer(payload)


def test_a_prompt_may_bring_images_by_itself(sight: Bench) -> None:
    given = {"prompt": "<image> What is this?", "images": [RED], "temperature": 0, "max_tokens": 8}
    assert sight.answer(given) != sight.answer({**given, "images": [BLUE]})


def test_the_prefix_cache_keeps_images_and_salts_apart(sight: Bench) -> None:
    def cached(data: bytes, **more: Any) -> int:
        payload = chat(text_part("so " * 60), image_part(data), text_part("and " * 60), max_tokens=1, **more)
        usage = sight.deltas(payload)[-1].usage
        assert usage is not None
        return usage["cached_tokens"]

    image, other = picture(9, width=64, height=64), picture(10, width=64, height=64)
    assert cached(image) == 0
    whole = cached(image)
    assert whole > 150
    assert 32 <= cached(other) < whole - 60  # what stands in front of the image, and no more
    assert cached(image, cache_salt="a") == 0
    assert cached(image, cache_salt="a") == whole
    assert cached(image, cache_salt="b") == 0


BROKEN = png(24, 16, b"no deflate stream")


@pytest.mark.parametrize(
    ("payload", "param", "problem"),
    [
        (chat(*[image_part(RED)] * 4, ASKED), "images", "at most 3"),
        (chat(image_part(BROKEN), ASKED), "messages", "image 1 cannot be decoded"),
        (chat(image_part(RED), text_part("see <image>")), "messages", "'<image>', which stands for an image"),
        (chat({"type": "image"}, ASKED), "messages[0].content[0].type", "send 'image_url'"),
        (chat(image_part(png(40_000, 40_000))), "messages[0].content[0].image_url.url", "pixels"),
        ({"prompt": "no place", "images": [RED]}, "messages", "the model cannot use"),
        ({"prompt": ["<image>", "b"], "images": [RED]}, "images", "several prompts"),
    ],
)  # fmt: skip
def test_refusals(sight: Bench, payload: dict[str, Any], param: str, problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        sight.deltas(tokenized(payload, sight.engine.tokenizer, sight.engine.card))
    assert caught.value.param == param
    assert sight.engine.stats().running == 0


def test_a_prompt_that_images_make_too_long_is_refused(sight: Bench) -> None:
    payload = chat(*[image_part(WIDE)] * 3, text_part("word " * 250))
    with pytest.raises(ContextLengthError, match="maximum context length is 512 tokens") as caught:
        sight.answer(payload)
    assert caught.value.param == "messages"


def test_a_text_model_takes_none(bench: Bench) -> None:
    assert bench.engine.card.images == 0
    with pytest.raises(InvalidRequestError, match="must be 'text'") as caught:
        bench.answer(chat(ASKED, {"type": "image_url", "image_url": {"url": data_url(RED)}}))
    assert caught.value.param == "messages[0].content[1].type"
    with pytest.raises(InvalidRequestError, match="takes text alone"):
        bench.answer({"prompt": "hi", "images": [RED]})


@pytest.fixture(scope="module")
def seeing(redis_server: RedisServer, vision_model: Path) -> Iterator[tuple[str, list[Worker], Frontend]]:
    """Two workers of the model, and a frontend that fetches nothing."""
    given = [
        f"Worker.engine_args.{name}={json.dumps(value).strip(chr(34))}" for name, value in ENGINE_ARGS.items()
    ]
    settings = (f"Worker.model={vision_model}", "Worker.served_model_name=sight", *given)
    url = redis_server.url
    with ExitStack() as entered:
        workers = [
            entered.enter_context(Worker(url, settings=settings, name=name, wait=False))
            for name in ("sight1", "sight2")
        ]
        http = entered.enter_context(Frontend(url, ready="/live"))
        until(lambda: _serving(url) == 2, 240, lambda: workers[0].output[-2000:])
        yield url, workers, http


def _serving(url: str) -> int:
    return sum(row["component"] == "Worker" for row in snapshot(url)["instances"])


def test_over_http_and_after_a_kill(seeing: tuple[str, list[Worker], Frontend]) -> None:
    url, workers, http = seeing
    body: Any = {
        "model": "sight", "max_tokens": 300, "temperature": 0, "extra_body": {"ignore_eos": True},
        "messages": chat(image_part(WIDE, detail="low"), ASKED, image_part(BLUE))["messages"],
    }  # fmt: skip
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(**body)
        alone = client.chat.completions.create(**{**body, "messages": chat(ASKED)["messages"]})
        assert whole.usage is not None
        assert alone.usage is not None
        assert whole.usage.prompt_tokens - alone.usage.prompt_tokens > 100
        with client.chat.completions.create(**body, stream=True) as stream:
            owner, got = None, ""
            for chunk in stream:
                got += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                if owner is None and got:
                    owner = _kill_owner(url, workers, stream.response.headers["x-request-id"])
        assert got == whole.choices[0].message.content
        status = http.get(f"/v1/requests/{stream.response.headers['x-request-id']}")[1]
        assert (status["status"], status["attempts"]) == ("succeeded", 2)
        with pytest.raises(openai.BadRequestError, match="cannot be decoded") as caught:
            client.chat.completions.create(**{**body, "messages": chat(image_part(BROKEN))["messages"]})
        assert caught.value.param == "messages"


def _kill_owner(url: str, workers: list[Worker], request_id: str) -> Worker:
    """``kill -9`` of the worker that runs a request: nobody goes on while it is looked for."""
    for worker in workers:
        worker.signal(signal.SIGSTOP)
    with redis.Redis.from_url(url, decode_responses=True) as client:
        lease = client.hget(Keys("dynamo").record(request_id), Field.OWNER)
    pids = {row["instance_id"]: row["pid"] for row in snapshot(url)["instances"]}
    owner = next(worker for worker in workers if worker.pid == pids[lease])
    owner.kill()
    for worker in workers:
        if worker is not owner:
            worker.signal(signal.SIGCONT)
    return owner
