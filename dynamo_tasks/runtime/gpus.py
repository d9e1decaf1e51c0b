"""Pins a worker process that nobody else has pinned: ``celery -A dynamo_tasks worker`` on its own."""

from __future__ import annotations

import os
import sys

from dynamo_tasks.config.host.gpus import ALLOCATION, MASK, PINNED, GpuClaims, allocation_mode, missing
from dynamo_tasks.config.host.home import Home
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.observe import event

__all__ = ["pin_process"]


def pin_process(service: str, gpus: float) -> None:
    """Choose GPUs that no other process of this host has, and show CUDA only those.

    Args:
        service: Who needs them.
        gpus: How many; below 1 a share of one; 0 leaves everything as it is.

    Raises:
        ConfigError: there are too few; or it is too late, since CUDA was started when a module was imported.
    """
    mode = allocation_mode(os.environ)
    if not gpus or mode == "off":
        return
    devices = GpuClaims(Home.from_environ()).claim({service: gpus})
    if not devices:
        event("config.warning", key=f"{service}.ServiceArgs.resources.gpu", problem=missing([service], mode))
        return
    if _cuda_runs():
        raise ConfigError(
            f"{service}: a module has started CUDA while it was imported, so that its GPUs cannot be chosen "
            f"any more; do that in a start hook, or set {MASK} and {ALLOCATION}=off"
        )
    # Children of an engine inherit it, and don't choose again.
    os.environ[MASK] = os.environ[PINNED] = devices[service]
    os.environ[ALLOCATION] = "off"


def _cuda_runs() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())
