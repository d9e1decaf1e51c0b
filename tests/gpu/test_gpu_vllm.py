"""The tests of the vLLM engine once more, on a GPU with vLLM's CUDA build: ``pytest -m gpu tests/gpu``."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dynamo_tasks.config.host.gpus import visible_gpus
from dynamo_tasks.engines import create_engine
from dynamo_tasks.errors import EngineError
from tests.vllm import test_vllm_continue, test_vllm_embeddings, test_vllm_engine, test_vllm_lora
from tests.vllm.conftest import ENGINE_ARGS, Bench, bench, tiny_model
from tests.vllm.test_vllm_embeddings import embedder
from tests.vllm.test_vllm_lora import fleet

__all__ = ["bench", "embedder", "fleet", "tiny_model"]

_MISSING = (
    "no GPU on this host" if not visible_gpus(os.environ)
    else "needs vLLM: pip install 'dynamo-tasks[vllm]'" if importlib.util.find_spec("vllm") is None
    else ""
)  # fmt: skip

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(bool(_MISSING), reason=_MISSING),
]


def tests_of(*modules: ModuleType) -> dict[str, Callable[..., Any]]:
    """The test functions of other modules."""
    return {
        name: value for module in modules for name, value in vars(module).items() if name.startswith("test_")
    }


globals().update(tests_of(test_vllm_engine, test_vllm_continue, test_vllm_embeddings, test_vllm_lora))


def test_it_runs_on_the_gpu(bench: Bench) -> None:
    platform: Any = importlib.import_module("vllm.platforms").current_platform
    assert platform.is_cuda()
    assert bench.engine.check_health() is None


@pytest.mark.parametrize("level", [1, 2])
def test_it_sleeps_and_wakes_with_the_same_answers(tiny_model: Path, level: int) -> None:
    torch: Any = importlib.import_module("torch")
    asked = {"prompt": "A queue is a promise", "temperature": 0, "max_tokens": 16, "ignore_eos": True}
    with asyncio.Runner() as runner:
        arguments = {**ENGINE_ARGS, "enable_sleep_mode": True}
        engine = create_engine("vllm", model=str(tiny_model), served_model_name="tiny", **arguments)
        runner.run(engine.start())
        try:
            made = Bench(runner, engine)
            before = made.answer(asked)
            free = torch.cuda.mem_get_info()[0]
            runner.run(engine.sleep(level))
            assert torch.cuda.mem_get_info()[0] > free
            with pytest.raises(EngineError, match="sleeps"):
                made.answer(asked)
            runner.run(engine.wake_up())
            assert made.answer(asked) == before
        finally:
            runner.run(engine.stop())
