"""Environments of each kind, and what runs their jobs."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from dynamo_tasks.pipelines import LocalEnvironment, RemoteEnvironment
from dynamo_tasks.pipelines.ray.cluster import actor_names
from tests.support.processes import Worker, until
from tests.support.ray import ray_cluster_of
from tests.support.server import RedisServer

MakeEnvironment = Callable[..., Any]


@pytest.fixture(scope="module")
def operators(redis_server: RedisServer) -> Iterator[Worker]:
    """A worker for all remote jobs of this module."""
    with Worker(
        redis_server.url,
        "--operators",
        "tests.support.pipeline_parts,itertools",
        service="",
        name="operators",
    ) as worker:
        yield worker


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A cluster of two CPUs."""
    with ray_cluster_of(2):
        yield


@pytest.fixture(params=["local", "celery", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.ray])])
def make_env(request: pytest.FixtureRequest) -> Iterator[MakeEnvironment]:
    """Makes environments; behind the test nothing of them may be left."""
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
        yield functools.partial(RemoteEnvironment, backend="ray")
        assert actor_names() == []
        return
    if request.param == "local":
        before = set(threading.enumerate())
        yield LocalEnvironment
        left = set(threading.enumerate()) - before
        assert not left, f"threads are left: {left}"
        return
    request.getfixturevalue("operators")
    server = request.getfixturevalue("redis_server")
    before = remains(server)
    made: list[RemoteEnvironment] = []

    def make(name: str, config: dict[str, Any] | None = None) -> RemoteEnvironment:
        made.append(RemoteEnvironment(name, {"redis_url": server.url, **(config or {})}))
        return made[-1]

    yield make
    for one in made:
        one.close()
    until(lambda: remains(server) <= before, 30, f"left: {remains(server) - before}")


def remains(server: RedisServer) -> set[str]:
    """Keys without an end, but for the index of jobs and that of processes that read."""
    with redis.Redis(port=server.port, decode_responses=True) as client:
        keys = {key for key in client.scan_iter("*pipelines*", count=1000) if client.ttl(key) == -1}
    return keys - {"dt:pipelines:jobs", "dt:pipelines:clients"}
