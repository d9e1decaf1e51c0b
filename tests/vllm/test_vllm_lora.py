"""LoRA adapters as models of their own, beside the model that they change; embeddings over HTTP."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks.engines import check_engine
from dynamo_tasks.errors import ConfigError
from tests.support.processes import Frontend, Worker, until
from tests.support.server import RedisServer
from tests.vllm.conftest import ENGINE_ARGS

COMPLETIONS = "/v1/completions"
PROMPT = "The quick brown fox jumps over the lazy dog, again and again."
START_S = 240.0
HIDDEN, LAYERS, RANK = 96, 2, 8


def make_adapter(folder: Path, seed: int) -> Path:
    """An adapter with random weights for the output projections of the tiny model's attention."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 64, "target_modules": ["o_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    random = np.random.default_rng(seed)
    weights = {}
    for layer in range(LAYERS):
        at = f"base_model.model.model.layers.{layer}.self_attn.o_proj"
        for part, shape in (("lora_A", (RANK, HIDDEN)), ("lora_B", (HIDDEN, RANK))):
            weights[f"{at}.{part}.weight"] = random.standard_normal(shape).astype(np.float32) / 4
    save_file(weights, str(folder / "adapter_model.safetensors"))
    return folder


def settings(model: Path, name: str, **more: Any) -> tuple[str, ...]:
    args = {**ENGINE_ARGS, "kv_cache_memory_bytes": 16 << 20, **more}
    return (
        f"Worker.model={model}",
        f"Worker.served_model_name={name}",
        *(f"Worker.engine_args.{key}={json.dumps(value).strip(chr(34))}" for key, value in args.items()),
    )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[tuple[Frontend, Worker]]:
    """One worker with two adapters, one with an embedding model; the frontend, and the latter worker."""
    folder = tmp_path_factory.mktemp("adapters")
    adapters = {name: str(make_adapter(folder / name, seed)) for seed, name in enumerate(["shop", "poet"])}
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    try:
        with ExitStack() as entered:
            more = {"lora_modules": adapters, "max_lora_rank": RANK, "max_loras": 2}
            text = Worker(server.url, settings=settings(tiny_model, "tiny", **more), name="text", wait=False)
            entered.enter_context(text)
            more = {"runner": "pooling", "convert": "embed"}
            of_vectors = (*settings(tiny_model, "vectors", **more), "Worker.dynamo.name=Vectors")
            vectors = Worker(server.url, settings=of_vectors, name="vectors", wait=False)
            entered.enter_context(vectors)
            frontend = entered.enter_context(Frontend(server.url, ready=""))
            text.wait_ready(START_S)
            vectors.wait_ready(START_S)
            until(lambda: len(_models(frontend)) == 4, 30, "four models")
            yield frontend, vectors
    finally:
        server.stop()


def _models(frontend: Frontend) -> list[str]:
    status, body = frontend.get("/v1/models")
    return [row["id"] for row in body["data"]] if status == 200 else []


def _ask(frontend: Frontend, model: str) -> str:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    status, _, answer = frontend.request("POST", COMPLETIONS, body)
    assert status == 200, answer
    assert answer["model"] == model
    return str(answer["choices"][0]["text"])


def test_each_adapter_is_a_model(fleet: tuple[Frontend, Worker]) -> None:
    frontend, _ = fleet
    assert _models(frontend) == ["poet", "shop", "tiny", "vectors"]
    answers = {name: _ask(frontend, name) for name in ("tiny", "shop", "poet")}
    assert len(set(answers.values())) == 3
    assert {name: _ask(frontend, name) for name in answers} == answers


def test_embeddings_over_http(fleet: tuple[Frontend, Worker]) -> None:
    frontend, _ = fleet
    body: dict[str, Any] = {"model": "vectors", "input": ["the quick brown fox", "你好 🙂"]}
    status, _, answer = frontend.request("POST", "/v1/embeddings", body)
    assert status == 200, answer
    vectors = [row["embedding"] for row in answer["data"]]
    assert [len(vector) for vector in vectors] == [HIDDEN] * 2
    assert all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-3) for vector in vectors)
    assert answer["usage"]["prompt_tokens"] > 4
    _, _, packed = frontend.request("POST", "/v1/embeddings", {**body, "encoding_format": "base64"})
    raw = base64.b64decode(packed["data"][1]["embedding"])
    assert list(struct.unpack(f"<{HIDDEN}f", raw)) == pytest.approx(vectors[1], abs=1e-4)
    for path, more, says in [
        ("/v1/embeddings", {"input": "x " * 600}, "512 tokens"),
        ("/v1/embeddings", {"input": "x", "model": "tiny"}, "does not make embeddings"),
        ("/v1/completions", {"prompt": "x"}, "makes embeddings, not text"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, "not chat"),
    ]:
        status, _, answer = frontend.request("POST", path, {"model": "vectors", **more})
        assert status == 400, (path, answer)
        assert says in answer["error"]["message"]


def test_a_model_goes_with_its_worker(fleet: tuple[Frontend, Worker]) -> None:
    frontend, vectors = fleet
    vectors.kill()
    until(lambda: _models(frontend) == ["poet", "shop", "tiny"], 30, "one model less")
    status, _, answer = frontend.request("POST", "/v1/embeddings", {"model": "vectors", "input": "x"})
    assert (status, answer["error"]["code"]) == (404, "model_not_found"), answer
    assert _ask(frontend, "tiny")


def test_a_folder_without_an_adapter_is_refused(tiny_model: Path) -> None:
    for wrong in ({"shop": "/no/such/folder"}, {"shop": str(tiny_model)}, ["shop"]):
        with pytest.raises(ConfigError, match="lora_modules") as caught:
            check_engine("vllm", model=str(tiny_model), lora_modules=wrong)
        assert caught.value.param == "lora_modules"
