"""A pipeline as an endpoint: the queue, HTTP, errors."""

from __future__ import annotations

import http.client
import json

import pytest

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.pipelines import LocalEnvironment
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.app import create_app
from dynamo_tasks.queue.client.task import make_task
from tests.support.pipeline_as_service import Numbers
from tests.support.pipeline_parts import fails_on
from tests.support.processes import Worker, until
from tests.support.server import RedisServer, free_port


def test_a_pipeline_is_called_by_delay_and_over_http(redis_server: RedisServer) -> None:
    port = free_port()
    app = create_app("caller", server_url=redis_server.url, make_host=lambda *_, **__: None)
    with Worker(
        redis_server.url, service="tests.support.pipeline_as_service:People", name="people",
        env={"DYNAMO_HTTP": f"127.0.0.1:{port}"},
    ) as worker:  # fmt: skip
        task = make_task(app, EndpointId("shop", "People", "process"))
        calls = [task.delay({"user_id": str(n)}) for n in range(5)]
        for n, call in enumerate(calls):
            [found] = call.get(timeout=30)
            assert found["profile"] == {"user_id": str(n), "score": 0.7}
            assert found["again"] == f"found {n}"
        status, body = until(lambda: post(port, "/People", {"user_id": "7"}), 30)
        assert (status, body[0]["found"]) == (200, "found 7!")
        assert worker.terminate() == 0
    app.close()


def test_branches_and_errors() -> None:
    instance = Numbers()
    instance.begin()
    try:
        assert instance.process(1) == [11, 21]
        with pytest.raises(ValueError, match="bad record 13"):
            instance.process(13)
    finally:
        instance.end()


def test_what_cannot_be_a_service_is_refused() -> None:
    env = LocalEnvironment("people")
    env.from_batch([1]).collect()
    with pytest.raises(ConfigError, match="has one source, from_requests"):
        env.as_service("People")
    env = LocalEnvironment("people")
    env.from_requests().print()
    with pytest.raises(ConfigError, match=r"ends with \.collect\(\)"):
        env.as_service("People")
    with pytest.raises(ConfigError, match="serve as_service"):
        env.submit()
    env = LocalEnvironment("people")
    env.from_requests().map(fails_on, 1, on_error="dead_letter").collect()
    with pytest.raises(ConfigError, match="keeps no dead letters"):
        env.as_service("People")


def post(port: int, path: str, body: object) -> tuple[int, object] | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()
