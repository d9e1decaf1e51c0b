"""GPUs: which there are, who gets which, and who has which."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks.config.host.gpus import GpuClaims, allocate, allocation_mode, visible_gpus
from dynamo_tasks.config.host.home import Home
from dynamo_tasks.errors import ConfigError


@pytest.mark.parametrize(
    ("mask", "devices"),
    [
        (None, ["0", "1", "2", "3"]),
        ("2,3", ["2", "3"]),
        ("3, 1", ["3", "1"]),
        ("1,9,2", ["1"]),
        ("1,-1,2", ["1"]),
        ("GPU-1a2b,GPU-3c4d", ["GPU-1a2b", "GPU-3c4d"]),
        ("1,1", ["1"]),
        ("", []),
        ("-1", []),
    ],
)
def test_devices_through_an_outer_mask(mask: str | None, devices: list[str]) -> None:
    environ = {"DYNAMO_FAKE_GPUS": "4"} | ({} if mask is None else {"CUDA_VISIBLE_DEVICES": mask})
    assert visible_gpus(environ) == devices


class Driver:
    """A driver's library that knows three GPUs, unless it cannot be started."""

    def __init__(self, broken: int = 0) -> None:
        self.nvmlInit_v2 = lambda: broken
        self.nvmlShutdown = lambda: 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 3
        return 0


def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: Driver())
    assert visible_gpus({}) == ["0", "1", "2"]
    monkeypatch.setattr("ctypes.CDLL", lambda name: Driver(broken=9))
    assert visible_gpus({}) == []


def test_a_host_without_gpus_has_none() -> None:
    assert visible_gpus({"DYNAMO_FAKE_GPUS": "0", "CUDA_VISIBLE_DEVICES": "0,1"}) == []
    with pytest.raises(ConfigError, match="DYNAMO_FAKE_GPUS must be a number"):
        visible_gpus({"DYNAMO_FAKE_GPUS": "many"})


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ({"a": 1, "b": 1}, {"a": ["4"], "b": ["5"]}),
        ({"a": 2, "b": 1}, {"a": ["4", "5"], "b": ["6"]}),
        ({"a": 0.5, "b": 0.5, "c": 1}, {"a": ["5"], "b": ["5"], "c": ["4"]}),
        ({"a": 0.6, "b": 0.6, "c": 0.4}, {"a": ["4"], "b": ["5"], "c": ["4"]}),
        ({str(i): 0.1 for i in range(10)}, {str(i): ["4"] for i in range(10)}),
        ({"a": 0.25, "b": 2}, {"a": ["6"], "b": ["4", "5"]}),
    ],
)
def test_whole_devices_are_distinct_and_shares_share(wanted: dict[str, float], given: Any) -> None:
    assert allocate(wanted, ["4", "5", "6"]) == given


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [({"a": 2, "b": 2}, {}), ({"a": 0.7, "b": 0.7, "c": 2}, {}), ({"a": 3}, {"0": 0.5}), ({"a": 4}, {})],
)
def test_too_few_are_an_error(wanted: dict[str, float], taken: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"GPUs are asked for \(a: .*but 3 can be seen \(0, 1, 2\)"):
        allocate(wanted, ["0", "1", "2"], taken)


def test_claims_of_several_processes_and_of_dead_ones(tmp_path: Path) -> None:
    home, environ = Home(tmp_path / "home"), {"DYNAMO_FAKE_GPUS": "3"}
    claims = GpuClaims(home)
    assert claims.claim({}, environ) == {}
    assert not home.path.exists()
    assert claims.claim({"a": 1, "b": 0.5}, environ) == {"a": "0", "b": "1"}
    code = (
        "import sys; from pathlib import Path; from dynamo_tasks.config.host.gpus import GpuClaims;"
        "from dynamo_tasks.config.host.home import Home;"
        f"c = GpuClaims(Home(Path({str(home.path)!r}))); e = {{'DYNAMO_FAKE_GPUS': '3'}};"
        "print(c.claim({'x': 0.5, 'y': 1}, e)); sys.stdout.flush();"
        "sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "{'x': '1', 'y': '2'}\n"
        with pytest.raises(ConfigError, match=r"in use by other processes: 0 \(1\), 1 \(1\), 2 \(1\)"):
            claims.claim({"c": 1}, environ)
        other.communicate()
    assert claims.claim({"c": 1}, environ) == {"c": "2"}
    claims.release()
    (lock,) = home.path.iterdir()
    assert lock.suffix == ".lock"


def test_claims_file_is_for_people_too(tmp_path: Path) -> None:
    claims = GpuClaims(Home(tmp_path))
    claims.claim({"Worker-0": 0.5}, {"DYNAMO_FAKE_GPUS": "1"})
    (path,) = tmp_path.glob("gpus-*.json")
    (entry,) = json.loads(path.read_text())
    assert (entry["device"], entry["share"], entry["name"]) == ("0", 0.5, "Worker-0")


def test_modes() -> None:
    assert allocation_mode({}) == "auto"
    assert allocation_mode({"DYNAMO_GPU_ALLOCATION": "off"}) == "off"
    with pytest.raises(ConfigError, match="must be one of auto, require, off"):
        allocation_mode({"DYNAMO_GPU_ALLOCATION": "on"})
