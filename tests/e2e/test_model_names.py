"""Names of models, with the real client: an alias, a split, and a fallback when a model is gone or full."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.support.batches import background_of, chat_line
from tests.support.processes import Frontend, Worker, together, until
from tests.support.serve import typed
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow
SETTINGS = (
    "Frontend.models={gpt-4o: [{name: llama, weight: 50}, {name: qwen, weight: 50}], gpt-4.1: llama, small: qwen}",
    "Frontend.fallbacks={gpt-4.1: [qwen], llama: [qwen]}",
)
ENV = {"DYNAMO_NAMESPACE": "names"}


@dataclass
class Fleet:
    http: Frontend
    client: openai.OpenAI
    llama: Worker
    url: str

    def ask(self, model: str, **more: Any) -> tuple[str, str, str]:
        """The name in the answer, the model that served it, and its text."""
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        raw = self.client.chat.completions.with_raw_response.create(model=model, **body | more)
        answer: Any = raw.parse()
        return answer.model, raw.headers.get("x-dynamo-model", ""), answer.choices[0].message.content

    def batch(self, model: str, count: int) -> list[dict[str, Any]]:
        """The rows of a batch of chats that names a model."""
        lines = [chat_line(str(n), f"hi {n}", 4, model=model) for n in range(count)]
        raw = "\n".join(map(json.dumps, lines)).encode()
        file = self.client.files.create(file=("in.jsonl", raw), purpose="batch")
        made = self.client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        ends = ("completed", "failed", "expired")
        done: Any = until(lambda: (b := self.client.batches.retrieve(made.id)).status in ends and b, 60)
        assert (done.status, done.request_counts.completed) == ("completed", count), done.errors
        return [json.loads(row) for row in self.client.files.content(done.output_file_id).text.splitlines()]

    def message(self, model: str) -> Any:
        body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
        return self.http.request("POST", "/v1/messages", body)

    def served(self, model: str) -> str:
        """The model that serves now; empty where the one that was chosen has just died."""
        try:
            return self.ask(model, extra_body={"timeout": 1})[1]
        except openai.APIStatusError:
            return ""


def _worker(url: str, name: str, *more: str) -> Worker:
    settings = (
        f"Worker.dynamo.name={name.capitalize()}", "Worker.engine=mocker", f"Worker.served_model_name={name}", *more
    )  # fmt: skip
    return Worker(url, settings=settings, env=ENV, name=name)


@pytest.fixture(scope="module")
def fleet(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    url = redis_server.url
    ENV["DYNAMO_FILES_URL"] = tmp_path_factory.mktemp("files").as_uri()
    with (
        background_of(url, ENV, *SETTINGS),
        together(
            _worker(url, "llama", "Worker.engine_args.seed=1"),
            _worker(url, "qwen", "Worker.engine_args.seed=2"),
            Frontend(url, env=ENV, settings=SETTINGS, ready="/live"),
        ) as (llama, _, http),
        openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="-", max_retries=0) as client,
    ):
        until(lambda: len(http.get("/v1/models")[1]["data"]) == 5, 30, "all names are listed")
        yield Fleet(http, client, llama, url)


def test_the_answer_has_the_name_that_was_asked_for(fleet: Fleet) -> None:
    ids = [model.id for model in fleet.client.models.list()]
    assert ids == ["gpt-4.1", "gpt-4o", "llama", "qwen", "small"]
    assert fleet.client.models.retrieve("gpt-4o").id == "gpt-4o"
    assert fleet.ask("gpt-4.1")[:2] == ("gpt-4.1", "llama")
    assert fleet.ask("small")[:2] == ("small", "qwen")
    assert fleet.ask("small")[2] == fleet.ask("qwen")[2] != fleet.ask("llama")[2]
    assert fleet.ask("qwen")[:2] == ("qwen", "")
    stream = fleet.client.chat.completions.create(
        model="small", messages=[{"role": "user", "content": "hi"}], max_tokens=4, stream=True
    )
    assert {chunk.model for chunk in stream} == {"small"}
    assert fleet.http.request("POST", "/tokenize", {"model": "small", "prompt": "hi"})[2]["count"] == 2
    metrics = fleet.http.get("/metrics")[1].decode()
    assert 'model="qwen"' in metrics
    assert 'model="small"' not in metrics


def test_a_split_goes_to_both_and_a_repetition_to_the_same(fleet: Fleet) -> None:
    served = [fleet.ask("gpt-4o")[1] for _ in range(40)]
    assert set(served) == {"llama", "qwen"}
    for key in "abc":
        again = [fleet.ask("gpt-4o", extra_headers={"Idempotency-Key": key}) for _ in range(3)]
        assert len(set(again)) == 1


def test_embeddings_and_completions_have_names_too(fleet: Fleet) -> None:
    vectors = fleet.client.embeddings.create(model="small", input="hi")
    assert (vectors.model, len(vectors.data)) == ("small", 1)
    text = fleet.client.completions.create(model="small", prompt="hi", max_tokens=4)
    assert text.model == "small"


def test_batches_have_names_too(fleet: Fleet) -> None:
    rows = fleet.batch("gpt-4.1", 3)
    assert {row["response"]["body"]["model"] for row in rows} == {"gpt-4.1"}
    texts = {row["response"]["body"]["choices"][0]["message"]["content"] for row in fleet.batch("small", 1)}
    said = [{"role": "user", "content": "hi 0"}]
    assert texts == {fleet.ask("qwen", messages=said)[2]}
    assert {row["response"]["body"]["model"] for row in fleet.batch("gpt-4o", 20)} == {"gpt-4o"}


def test_messages_have_names_too(fleet: Fleet) -> None:
    status, headers, message = fleet.message("gpt-4.1")
    assert (status, headers["x-dynamo-model"], message["model"]) == (200, "llama", "gpt-4.1")
    status, headers, message = fleet.message("small")
    assert (status, headers["x-dynamo-model"], message["model"]) == (200, "qwen", "small")
    asked = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
    assert fleet.http.request("POST", "/v1/messages/count_tokens", asked)[2]["input_tokens"] > 0


def test_what_is_wrong_is_told_before_anything_starts(tmp_path: Any) -> None:
    done = typed(tmp_path, "serve", "--dry-run", "--Frontend.models={a: b, b: a}")
    assert done.returncode == 2
    assert "a → b → a is a circle" in done.stdout + done.stderr


def test_a_fallback_takes_what_a_dead_model_cannot(fleet: Fleet) -> None:
    body: dict[str, Any] = {"extra_headers": {"Idempotency-Key": "kept"}}
    before = fleet.ask("gpt-4.1", **body)
    assert before[1] == "llama"
    fleet.llama.kill()
    until(lambda: fleet.served("gpt-4.1") == "qwen", 30, "the fallback serves")
    assert fleet.ask("gpt-4.1")[:2] == ("gpt-4.1", "qwen")
    assert fleet.ask("llama")[:2] == ("llama", "qwen")
    assert {fleet.ask("gpt-4o")[1] for _ in range(10)} == {"qwen"}
    assert "gpt-4o" in [model.id for model in fleet.client.models.list()]
    assert fleet.message("gpt-4.1")[1]["x-dynamo-model"] == "qwen"
    assert {row["response"]["body"]["model"] for row in fleet.batch("gpt-4.1", 5)} == {"gpt-4.1"}
    with pytest.raises(openai.InternalServerError) as caught:  # llama's answer is stored, and llama is away
        fleet.ask("gpt-4.1", **body)
    assert caught.value.code == "no_instances"
    taken = fleet.ask("gpt-4.1", extra_headers={"Idempotency-Key": "new"})
    with _worker(fleet.url, "llama", "Worker.engine_args.seed=1"):
        until(lambda: fleet.served("gpt-4.1") == "llama", 30, "it is back")
        assert fleet.ask("gpt-4.1", extra_headers={"Idempotency-Key": "new"}) == taken
        assert fleet.ask("gpt-4.1", **body) == before


def test_a_fallback_takes_what_a_full_model_refuses(fleet: Fleet) -> None:
    full = (
        "Worker.ServiceArgs={traffic: {max_queue: 1}, concurrency: 1}",
        "Worker.engine_args.token_delay_ms=50",
    )
    with _worker(fleet.url, "llama", *full):
        until(lambda: fleet.served("gpt-4.1") == "llama", 30, "it is back")
        asked = {"model": "gpt-4.1", "prompt": "x", "max_tokens": 200, "background": True}

        def more() -> bool:
            status, headers, _ = fleet.http.request("POST", "/v1/completions", asked)
            return (status, headers["x-dynamo-model"]) == (202, "qwen")

        until(more, 30, "it is full")
