"""A result that is all that follows a request is there in the same moment as its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import chain

from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.app import DynamoApp, create_app
from dynamo_tasks.queue.client.task import EndpointTask, make_task
from dynamo_tasks.store.keys import Keys
from tests.support.processes import Worker, until
from tests.support.records import by_word
from tests.support.server import RedisServer

ASKED = {"prompt": "hi", "max_tokens": 4}


class Application:
    """An application beside a worker of the default graph, in whose process nobody listens to Celery's signals."""

    def __init__(self, server: RedisServer):
        self.app: DynamoApp = create_app("ends", server_url=server.url, make_host=lambda *_, **__: None)
        self.generate: EndpointTask = make_task(self.app, EndpointId("dynamo", "Worker", "generate"))
        self.redis = redis.Redis(port=server.port, decode_responses=True)
        self.keys = Keys("dynamo")


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with (
        RedisServer(tmp_path_factory.mktemp("redis")) as server,
        Worker(server.url, settings=("Worker.engine=mocker",)),
    ):
        made = Application(server)
        yield made
        made.app.close()
        made.redis.close()


def test_the_result_is_there_when_the_end_is(application: Application) -> None:
    for _ in range(30):
        result = application.generate.delay(ASKED)
        text = "".join(chunk["text"] for chunk in result)
        kept: dict[str, Any] = json.loads(application.redis.get(f"celery-task-meta-{result.id}") or "{}")
        record = by_word(application.redis.hgetall(application.keys.record(result.id)))
        assert (kept["status"], kept["result"]["text"], kept["task_id"]) == ("SUCCESS", text, result.id)
        assert (record["state"], record["settled"]) == ("SUCCEEDED", "1")
        assert "message" not in record
        assert application.redis.ttl(f"celery-task-meta-{result.id}") > 3600
        assert result.get(timeout=30)["text"] == text


def test_nobody_owns_it_any_more(application: Application) -> None:
    result = application.generate.delay(ASKED)
    result.get(timeout=30)
    owned = list(application.redis.scan_iter("dt:dynamo:owned:*"))
    until(
        lambda: all(result.id not in application.redis.smembers(key) for key in owned),
        what="the owner to leave",
    )


def test_what_more_follows_is_done_behind_the_end(application: Application) -> None:
    first, second = application.generate.s(ASKED), application.generate.s({"max_tokens": 2})
    assert len(chain(first, second).delay().get(timeout=30)["token_ids"]) == 2


def test_an_ignored_result_is_not_kept(application: Application) -> None:
    result = application.generate.apply_async((ASKED,), ignore_result=True)
    assert len(result.get(timeout=30)["token_ids"]) == 4
    assert application.redis.get(f"celery-task-meta-{result.id}") is None
