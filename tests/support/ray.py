"""A Ray cluster of this machine, for the tests that need one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from dynamo_tasks.pipelines import ensure_ray_initialized

__all__ = ["ray_cluster_of"]


@contextlib.contextmanager
def ray_cluster_of(cpus: int) -> Iterator[None]:
    """Starts a cluster, and takes it down; skips where Ray is not installed."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    ensure_ray_initialized("local", num_cpus=cpus, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
