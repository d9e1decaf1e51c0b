"""Flower's page of a worker: limits of an endpoint that are set there hold."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from typing import Any

import pytest
from celery.exceptions import TimeLimitExceeded

from tests.support.processes import Flower, together, until
from tests.support.queue import SERVICE, Lab
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow


def post(flower: Flower, path: str, **fields: Any) -> Any:
    """Send a form, as the page does."""
    url = f"http://127.0.0.1:{flower.port}/api/{path}"
    with urllib.request.urlopen(url, urllib.parse.urlencode(fields).encode(), timeout=30) as answer:
        return json.load(answer)


def test_limits_that_are_set_in_flower_hold(redis_server: RedisServer) -> None:
    lab = Lab(redis_server, "flowered")
    graph = {"DYNAMO_GRAPH": SERVICE, "LAB_NAMESPACE": "flowered"}
    flower = Flower(lab.url, FLOWER_UNAUTHENTICATED_API="true", **graph)
    with together(lab.worker("-E", "-n", "flowered@here"), flower):
        name, where = "flowered.Lab.count", "flowered@here"
        until(lambda: flower.get("/")[0] or not flower.alive, 30, "Flower listens")
        until(lambda: where in json.dumps(_json(flower, "/api/workers?refresh=1")), 60, "the worker is known")
        # The tab Limits lists an endpoint before anybody has called it.
        assert f">{name}<" in "".join(flower.get(f"/worker/{where}")[1].decode().split())
        sent = post(flower, f"task/timeout/{name}", workername=where, soft=20, hard=0.5)
        assert "time limits set" in str(sent).lower(), sent
        with pytest.raises(TimeLimitExceeded):
            lab.call("count", {"n": 200, "delay": 0.1}).get(timeout=20)
        sent = post(flower, f"task/rate-limit/{name}", workername=where, ratelimit="1/h")
        assert "rate limit set" in str(sent).lower(), sent
        calls = [lab.call("count", {"n": 1, "delay": 0}) for _ in range(3)]
        assert calls[0].get(timeout=20) == [0]
        assert [lab.state(call.id) for call in calls[1:]] == ["QUEUED", "QUEUED"]
        for call in calls[1:]:
            call.cancel()
    lab.close()


def _json(flower: Flower, path: str) -> Any:
    status, body = flower.get(path)
    return body if status == 200 else status
