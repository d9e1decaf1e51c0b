"""Pinning on a real GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynamo_tasks.config.host.gpus import GpuClaims, visible_gpus
from dynamo_tasks.config.host.home import Home

pytestmark = pytest.mark.gpu

# CUDA's own count, from the driver: needs no framework.
COUNT = (
    "import ctypes; c = ctypes.CDLL('libcuda.so.1'); n = ctypes.c_int(); c.cuInit(0);"
    " c.cuDeviceGetCount(ctypes.byref(n)); print(n.value)"
)


def test_a_pinned_process_sees_its_device_alone(tmp_path: Path) -> None:
    devices = visible_gpus(os.environ)
    if not devices:
        pytest.skip("no GPU on this host")
    claims = GpuClaims(Home(tmp_path))
    given = claims.claim({f"w{index}": 1 for index in range(len(devices))})
    assert sorted(given.values()) == sorted(devices)
    for mask in given.values():
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": mask}
        done = subprocess.run(
            [sys.executable, "-c", COUNT], env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "1"
    claims.release()
