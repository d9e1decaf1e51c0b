"""An embedding model: the tiny Llama, whose last hidden state is taken for a vector."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamo_tasks.engines import create_engine
from dynamo_tasks.errors import InvalidRequestError
from tests.vllm.conftest import ENGINE_ARGS, Bench


@pytest.fixture(scope="module")
def embedder(tiny_model: Path) -> Iterator[Bench]:
    with asyncio.Runner() as runner:
        args = {**ENGINE_ARGS, "runner": "pooling", "convert": "embed"}
        engine = create_engine("vllm", model=str(tiny_model), served_model_name="vectors", **args)
        runner.run(engine.start())
        try:
            yield Bench(runner, engine)
        finally:
            runner.run(engine.stop())


def test_vectors(embedder: Bench) -> None:
    engine = embedder.engine
    assert (engine.card.kind, engine.card.max_model_len) == ("embeddings", 512)
    texts = ["the quick brown fox", "the quick brown fox!", "你好 🙂"]
    found = embedder.run(engine.embed([*texts, engine.tokenizer.encode(texts[0])]))
    assert [len(vector) for vector in found.vectors] == [96] * 4
    assert all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-3) for vector in found.vectors)
    assert found.vectors[0] == pytest.approx(found.vectors[3], abs=1e-4)
    assert found.vectors[0] != pytest.approx(found.vectors[2], abs=1e-2)
    assert found.prompt_tokens == sum(len(engine.tokenizer.encode(text)) for text in [*texts, texts[0]])
    assert engine.stats().running == 0


def test_what_it_refuses(embedder: Bench) -> None:
    engine = embedder.engine
    with pytest.raises(InvalidRequestError, match=r"512 tokens.* has 1201 tokens"):
        embedder.run(engine.embed(["x " * 600]))
    with pytest.raises(InvalidRequestError, match=r"dimensions|matryoshka"):
        embedder.run(engine.embed(["x"], 8))
    with pytest.raises(InvalidRequestError, match="makes embeddings, not text"):
        engine.generate({"prompt": "x"})


def test_a_model_that_writes_text_makes_no_embeddings(bench: Bench) -> None:
    with pytest.raises(InvalidRequestError, match="does not make embeddings"):
        bench.run(bench.engine.embed(["x"]))
