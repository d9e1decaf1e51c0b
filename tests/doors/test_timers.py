"""What waits in a worker for its time runs when that has come, as with Celery's own worker beside it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, chord, group

from tests.support.processes import Process, Worker, environment, together, until
from tests.support.promises import in_time
from tests.support.server import RedisServer
from tests.support.timed import stock

Run = Callable[[Celery], list[float]]
LATE = 0.3
"""Seconds by which a run may be later than Celery's own: a hub that only looks once a second is later."""


class Stock(Process):
    """Celery's own worker."""

    def __init__(self, url: str):
        argv = [sys.executable, "-m", "celery", "-A", "tests.support.timed", "worker", "-l", "info"]
        env = environment(url, TIMED_STOCK=url)
        super().__init__([*argv, "-c", "4", "-Q", "stock", "--prefetch-multiplier", "8"], env, name="stock")

    def wait_ready(self, timeout: float = 60.0) -> None:
        until(lambda: "ready." in self.output, timeout, lambda: self.output)


@pytest.fixture(scope="module")
def queues(redis_server: RedisServer) -> Iterator[dict[str, str]]:
    """Both workers; names of their queues."""
    ours = Worker(
        redis_server.url, "-c", "32", "-Q", "timed", app="tests.support.timed",
        service="tests.support.timed:Idle", name="timed",
    )  # fmt: skip
    with together(Stock(redis_server.url), ours):
        yield {"stock": "stock", "ours": "timed"}


@pytest.fixture(scope="module")
def client(redis_server: RedisServer) -> Iterator[Celery]:
    """A stranger's client, for both."""
    with stock(redis_server.url) as app:
        yield app


def _gathered(results: list[Any], began: float) -> list[float]:
    return sorted(result.get(timeout=60) - began for result in results)


def _countdowns(app: Celery, queue: str) -> list[float]:
    began = time.time()
    waits = (0.05, 0.1, 0.3, 0.9, 1.4)
    return _gathered([app.send_task("timed.stamp", countdown=w, queue=queue) for w in waits], began)


def _many_at_once(app: Celery, queue: str) -> list[float]:
    """More timers than the hub fires in one go."""
    began = time.time()
    return _gathered([app.send_task("timed.stamp", countdown=0.4, queue=queue) for _ in range(25)], began)


def _rate_limit(app: Celery, queue: str) -> list[float]:
    began = time.time()
    return _gathered([app.send_task("timed.limited", queue=queue) for _ in range(8)], began)


def _retries(app: Celery, queue: str) -> list[float]:
    began = time.time()
    return _gathered([app.send_task("timed.again", queue=queue)], began)


def _chord_of_limited(app: Celery, queue: str) -> list[float]:
    began = time.time()
    body = app.signature("timed.stamp", queue=queue)
    header = [app.signature("timed.limited", queue=queue, app=app) for _ in range(3)]
    return _gathered([chord(header, app=app)(body)], began)


def _group_with_eta(app: Celery, queue: str) -> list[float]:
    began = time.time()
    members = [app.signature("timed.stamp", queue=queue, countdown=0.1 * i, app=app) for i in range(1, 4)]
    return _gathered(list(group(members, app=app).apply_async()), began)


@pytest.mark.parametrize(
    "scene",
    [_countdowns, _many_at_once, _rate_limit, _retries, _chord_of_limited, _group_with_eta],
    ids=lambda scene: scene.__name__.strip("_"),
)
def test_timers_are_as_precise_as_celerys(
    queues: dict[str, str], client: Celery, scene: Callable[[Celery, str], list[float]]
) -> None:
    def later() -> float:
        theirs, ours = scene(client, queues["stock"]), scene(client, queues["ours"])
        assert len(ours) == len(theirs)
        return max(mine - other for mine, other in zip(ours, theirs, strict=True))

    in_time(later, LATE)


@pytest.mark.parametrize("limit", ["100/s", 0], ids=["raised", "taken away"])
def test_a_rate_limit_that_is_changed_holds_for_what_waits(
    queues: dict[str, str], client: Celery, redis_server: RedisServer, limit: str | int
) -> None:
    def limited_to(how: str | int) -> None:
        answers = client.control.rate_limit("timed.rare", how, reply=True, timeout=5, limit=2)
        assert all("ok" in reply for answer in answers for reply in answer.values())

    limited_to("1/h")
    waiting = [client.send_task("timed.rare", queue=queues["ours"]) for _ in range(3)]
    waiting[0].get(timeout=30)
    until(lambda: redis_server.command("LLEN", "timed") == b":0\r\n", what="the others to be fetched")
    limited_to(limit)
    for one in waiting:
        one.get(timeout=30)
