"""What is known of vLLM and of models without importing it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from dynamo_tasks.engines import check_engine, create_engine
from dynamo_tasks.engines.vllm.engine import VllmEngine
from dynamo_tasks.engines.vllm.install import argument_names, check_model, check_version
from dynamo_tasks.engines.vllm.start import _with_defaults
from dynamo_tasks.errors import ConfigError

SOURCE = """
from dataclasses import dataclass
import something_heavy

@dataclass
class EngineArgs:
    model: str = ""
    served_model_name: str | None = None
    tokenizer: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    tensor_parallel_size: int = 1
    enforce_eager: bool = False

@dataclass
class AsyncEngineArgs(EngineArgs):
    enable_log_requests: bool = False

class Other:
    not_one: int = 0
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A vLLM of which only the source can be read."""
    folder = tmp_path / "vllm"
    (folder / "engine").mkdir(parents=True)
    (folder / "engine" / "arg_utils.py").write_text(SOURCE)
    spec = ModuleSpec("vllm", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: spec if name == "vllm" else real(name, *more)
    )
    argument_names.cache_clear()
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    yield model
    argument_names.cache_clear()


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1+cpu", "0.33.0rc1"])
def test_supported_versions(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["0.31.9", "0.34.0", "1.0.0", "0.6.3.post1"])
def test_other_versions_are_refused(version: str) -> None:
    with pytest.raises(ConfigError, match=r"supported are 0\.32 up to, not including, 0\.34"):
        check_version(version)


def test_arguments_are_those_of_vllm(installed: Path) -> None:
    assert {"model", "enforce_eager", "enable_log_requests"} <= argument_names()
    assert "not_one" not in argument_names()
    engine = create_engine("vllm", model=str(installed), served_model_name="m", **{"enforce-eager": True})
    assert isinstance(engine, VllmEngine)
    assert (engine.card.name, engine.max_num_seqs) == ("m", 256)
    assert "vllm.engine.arg_utils" not in sys.modules


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"enforce_eagr": True}, "no argument 'enforce_eagr'; nearest: 'enforce_eager'"),
        ({"model": None}, "needs a model"),
        ({"model": "/no/such/model"}, "model '/no/such/model': there is no such folder"),
        ({"model": "./nor/here"}, "there is no such folder"),
        ({"model": "a/b/c"}, "there is no such folder"),
    ],
)
def test_bad_arguments(installed: Path, args: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_engine("vllm", **{"model": str(installed), **args})


def test_models(tmp_path: Path) -> None:
    assert check_model("org/name") is None
    with pytest.raises(ConfigError, match=r"the folder has no config\.json"):
        check_model(str(tmp_path))
    (tmp_path / "config.json").touch()
    assert check_model(str(tmp_path)) == tmp_path


def test_a_pinned_process_uses_all_of_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMO_GPUS", "2,5")
    assert _with_defaults({"model": "m"})["tensor_parallel_size"] == 2
    assert _with_defaults({"tensor_parallel_size": 1})["tensor_parallel_size"] == 1
    assert "tensor_parallel_size" not in _with_defaults({"pipeline_parallel_size": 2})
    monkeypatch.setenv("DYNAMO_GPUS", "GPU-1234")
    assert "tensor_parallel_size" not in _with_defaults({})
