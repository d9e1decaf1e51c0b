"""GPUs of the processes of one ``serve``."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamo_tasks.config.host.home import Home
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.serve.planning.gpus import GpuPins
from dynamo_tasks.serve.processes.spec import ProcessSpec

FAKE = {"DYNAMO_FAKE_GPUS": "2"}


def spec(name: str, gpus: float, **env: str) -> ProcessSpec:
    return ProcessSpec(name=name, argv=(), service=name, gpus=gpus, env=env)


def test_what_a_process_gets(tmp_path: Path) -> None:
    pins = GpuPins(Home(tmp_path), FAKE)
    own = spec("own", 1, CUDA_VISIBLE_DEVICES="7")
    assert pins.claim([spec("a", 1), spec("none", 0), own, spec("b", 0.5)]) == ""
    assert pins.environment("a") == {
        "CUDA_VISIBLE_DEVICES": "0",
        "DYNAMO_GPUS": "0",
        "DYNAMO_GPU_ALLOCATION": "off",
    }
    assert pins.environment("b")["CUDA_VISIBLE_DEVICES"] == "1"
    assert pins.environment("none") == pins.environment("own") == {"DYNAMO_GPU_ALLOCATION": "off"}
    pins.release()
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(("environ", "mode"), [({}, "off"), ({"DYNAMO_GPU_ALLOCATION": "off"}, None)])
def test_switched_off(tmp_path: Path, environ: dict[str, str], mode: str | None) -> None:
    pins = GpuPins(Home(tmp_path), FAKE | environ, mode)
    assert pins.claim([spec("a", 9)]) == ""
    assert "CUDA_VISIBLE_DEVICES" not in pins.environment("a")


def test_no_gpu_at_all(tmp_path: Path) -> None:
    none = {"DYNAMO_FAKE_GPUS": "0"}
    assert "a, b start unpinned" in GpuPins(Home(tmp_path), none).claim([spec("a", 1), spec("b", 1)])
    with pytest.raises(ConfigError, match="no GPU can be seen"):
        GpuPins(Home(tmp_path), none, "require").claim([spec("a", 1)])


def test_turns_on_one_device(tmp_path: Path) -> None:
    """Those that take turns get the same device, others another one, and none is free while one of them has it."""
    pins = GpuPins(Home(tmp_path), FAKE)
    small, large = (
        ProcessSpec(
            name=f"{name}-0", argv=(), service="Worker", gpus=1, elastic=True, turn=("dynamo/gpu0", name)
        )
        for name in ("small", "large")
    )
    pins.claim([spec("other", 1)])
    pins.claim([small])
    pins.release_one("other")
    pins.claim([large])
    assert pins.environment("small-0")["CUDA_VISIBLE_DEVICES"] == "1"
    assert pins.environment("large-0")["CUDA_VISIBLE_DEVICES"] == "1"
    pins.claim([spec("other", 1)])
    assert pins.environment("other")["CUDA_VISIBLE_DEVICES"] == "0"
    with pytest.raises(ConfigError, match="in use by other processes"):
        pins.claim([spec("one more", 1)])
