"""Messages that a worker requeues lie in front of their own queue, whatever all keys start with."""

from __future__ import annotations

import asyncio
import base64
import json
import zlib
from typing import Any

import pytest
from kombu import Consumer, Queue

from dynamo_tasks.queue.app import create_app
from dynamo_tasks.queue.broker.consumer_gate import ConsumerGate
from dynamo_tasks.queue.broker.envelope import HEADER
from dynamo_tasks.runtime.celeryapp import make_host
from tests.support.server import RedisServer

QUEUE = "given-back"


@pytest.fixture(params=["", "shop:"], ids=["bare", "prefixed"])
def prefix(request: pytest.FixtureRequest, redis_server: RedisServer) -> str:
    found: str = request.param
    redis_server.command("DEL", f"{found}{QUEUE}")
    return found


def _send(server: RedisServer, prefix: str, number: int, headers: dict[str, Any]) -> None:
    body, encoding = json.dumps({"n": number}), None
    if "compression" in headers:
        body, encoding = base64.b64encode(zlib.compress(body.encode())).decode(), "base64"
    message = {
        "body": body, "content-encoding": "utf-8", "content-type": "application/json",
        "headers": headers,
        "properties": {
            "delivery_info": {"exchange": "", "routing_key": QUEUE}, "delivery_tag": f"tag-{number}", "priority": 0,
            "body_encoding": encoding,
        },
    }  # fmt: skip
    server.command("LPUSH", f"{prefix}{QUEUE}", json.dumps(message))


@pytest.mark.parametrize(
    "headers",
    [{}, {HEADER: {"v": 1}}, {HEADER: {"v": 1}, "compression": "gzip"}],
    ids=["plain", "endpoint", "compressed"],
)
def test_what_was_fetched_and_not_started(
    redis_server: RedisServer, prefix: str, headers: dict[str, Any]
) -> None:
    app = create_app(server_url=redis_server.url, make_host=make_host, key_prefix=prefix)
    for number in range(2):
        _send(redis_server, prefix, number, headers)
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        got = [channel.basic_get(QUEUE) for _ in range(2)]
        channel.requeue([message.delivery_tag for message in got])
    found = redis_server.command("LRANGE", f"{prefix}{QUEUE}", "0", "-1")
    assert all(found.count(name.encode()) == 2 for name in headers), "not as they came"
    _in_order(app, redis_server, prefix)


def test_what_was_popped_for_a_queue_that_is_consumed_no_more(redis_server: RedisServer, prefix: str) -> None:
    app = create_app(server_url=redis_server.url, make_host=make_host, key_prefix=prefix)
    for number in range(2):
        _send(redis_server, prefix, number, {})
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        with channel.conn_or_acquire() as client:
            raws = [client.brpop(QUEUE, 1)[1] for _ in range(2)]
        asyncio.run(channel.arrived(raws, f"{prefix}{QUEUE}"))
    _in_order(app, redis_server, prefix)


def test_what_the_next_connection_restores_meanwhile(
    redis_server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The channel is closed while it notes what has come, and the next one finds the notes first."""
    app = create_app(server_url=redis_server.url, make_host=make_host, key_prefix=prefix)
    for number in range(2):
        _send(redis_server, prefix, number, {})
    with app.connection_for_read() as connection, app.connection_for_read() as after:
        channel = connection.default_channel
        channel.consumer_gate = gate = ConsumerGate()
        Consumer(channel, [Queue(QUEUE)]).consume()
        with channel.conn_or_acquire() as client:
            raws = [client.brpop(QUEUE, 1)[1] for _ in range(2)]
        note = channel.qos.note

        def noted_and_closed(messages: list[Any]) -> list[str]:
            tags: list[str] = note(messages)
            gate.pause()
            after.default_channel.restore_unknown(set())
            return tags

        monkeypatch.setattr(channel.qos, "note", noted_and_closed)
        asyncio.run(channel.arrived(raws, f"{prefix}{QUEUE}"))
    _in_order(app, redis_server, prefix)


def _in_order(app: Any, server: RedisServer, prefix: str) -> None:
    assert server.command("LLEN", f"{prefix}{QUEUE}") == b":2\r\n"
    assert not prefix or server.command("EXISTS", f"{prefix}{prefix}{QUEUE}") == b":0\r\n"
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(QUEUE, queue_opts={"durable": True})
        assert [queue.get(timeout=5).payload["n"] for _ in range(2)] == [0, 1]
