"""``.delay()`` without Celery's detours: the same message and the same record, and Celery's way where it is wanted."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from celery import signals

from dynamo_tasks.errors import IdempotencyConflictError, QueueFullError
from dynamo_tasks.queue import direct
from tests.support.queue import Lab
from tests.support.server import RedisServer

PAYLOADS = [
    {"n": 3, "text": "naïve 🙂", "ids": list(range(500))},
    None,
    "text",
    {"when": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "price": Decimal("1.5"), "pair": (1, 2)},
]
OPTIONS: list[dict[str, Any]] = [
    {}, {"tenant": "t", "weight": 2.0, "background": True}, {"deadline": 60, "abandon_after": 1.5},
    {"idempotency_key": "k", "retention": 5, "max_queue": 1000},
]  # fmt: skip


@contextmanager
def listener() -> Iterator[list[str]]:
    """Somebody listens to a signal of publishing."""
    heard: list[str] = []

    def receiver(sender: str, headers: dict[str, Any], **_: Any) -> None:
        heard.append(headers["id"])

    signals.before_task_publish.connect(receiver)
    try:
        yield heard
    finally:
        signals.before_task_publish.disconnect(receiver)


def queued(lab: Lab, request_id: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Message and record of a call, without what differs from one call to the next."""
    record = lab.record(request_id)
    message = json.loads(record.pop("msg"))
    body, encoding = message["body"], message["properties"].pop("body_encoding")
    message["body"] = json.loads(base64.b64decode(body) if encoding == "base64" else body)
    assert message["properties"].pop("delivery_tag")
    message["properties"].pop("argsrepr", None)  # Celery puts this option among the properties, too
    for name in ("cr", "dl"):
        record.pop(name)
    return json.loads(json.dumps(message).replace(request_id, "<id>")), record


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_message_and_record_are_those_of_celerys_way(
    lab: Lab, payload: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "idempotency_key" in options:  # one key stands for one request
        options = {**options, "idempotency_key": f"k{PAYLOADS.index(payload)}"}
    monkeypatch.setattr(direct, "_is_plain", lambda app, task: True)
    short = lab.call("echo", payload, **options)
    made = queued(lab, short.id)
    if "idempotency_key" in options:
        options["idempotency_key"] += "-celery"
    with monkeypatch.context() as patch:
        patch.setattr(direct, "_is_plain", lambda app, task: False)
        long = lab.call("echo", payload, **options)
    assert made == queued(lab, long.id)
    assert (type(short), short.namespace, short.ignored) == (type(long), long.namespace, long.ignored)


def test_the_usual_call_takes_the_short_way(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.app, "send_task", None)  # Celery's way is not there
    result = lab.task("echo").delay({"a": 1})
    assert lab.state(result.id) == "QUEUED"
    assert lab.task("echo").apply_async(({"a": 1},), task_id="chosen", headers={"x-mine": "1"}).id == "chosen"
    assert queued(lab, "chosen")[0]["headers"]["x-mine"] == "1"


@pytest.mark.parametrize(
    "options",
    [
        {"countdown": 60}, {"expires": 60}, {"priority": 5}, {"link": []}, {"queue": "dynamo-tasks"},
        {"headers": {"number": 1}}, {"ignore_result": True}, {"time_limit": 5}, {"shadow": "other"},
        {"serializer": "json"}, {"retry": False},
    ],
)  # fmt: skip
def test_whatever_is_asked_of_celery_goes_celerys_way(
    lab: Lab, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    send = lab.app.send_task
    monkeypatch.setattr(lab.app, "send_task", lambda *a, **k: sent.append(k["task_id"]) or send(*a, **k))
    assert sent == [lab.call("echo", {}, **options).id]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("task_send_sent_event", True), ("task_routes", {"other": {"queue": "other"}}),
        ("task_compression", "gzip"), ("task_default_delivery_mode", 1),
    ],
)  # fmt: skip
def test_settings_of_publishing_are_heeded(
    redis_server: RedisServer, setting: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Lab(redis_server, "direct_settings")
    try:
        assert direct._is_plain(own.app, own.task("echo"))
        own.app.conf[setting] = value
        own.app.__dict__.pop("amqp", None)  # Celery reads most of them once
        assert not direct._is_plain(own.app, own.task("echo"))
    finally:
        own.close()


def test_signals_are_sent_to_who_listens(lab: Lab) -> None:
    with listener() as heard:
        result = lab.task("echo").delay({})
    assert heard == [result.id]


def test_refusals_are_the_same(lab: Lab) -> None:
    lab.call("echo", {"a": 1}, idempotency_key="conflict")
    with pytest.raises(IdempotencyConflictError):
        lab.call("echo", {"a": 2}, idempotency_key="conflict")
    first = lab.call("echo", {"a": 1}, idempotency_key="conflict")
    assert lab.call("echo", {"a": 1}, idempotency_key="conflict").id == first.id
    with pytest.raises(QueueFullError):
        lab.call("echo", {}, max_queue=1)


def test_a_connection_that_was_lost_is_made_again(lab: Lab) -> None:
    before = lab.task("echo").delay({})
    names = [client for client in lab.redis.client_list() if client["id"] != str(lab.redis.client_id())]
    for client in names:
        lab.redis.client_kill_filter(_id=client["id"])
    after = lab.task("echo").delay({})
    assert (lab.state(before.id), lab.state(after.id)) == ("QUEUED", "QUEUED")


def test_where_the_short_way_fails_celerys_own_retries(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, calls, submit = Lab(redis_server, "direct_lost"), [], direct.submit

    def fails_behind_the_write(channel: Any, new: Any) -> str:
        calls.append(submit(channel, new))
        raise ConnectionResetError("the answer was lost")

    monkeypatch.setattr(direct, "submit", fails_behind_the_write)
    try:
        result = own.task("echo").delay({"only": "once"})
        assert calls == [result.id]
        assert [json.loads(one)["headers"]["id"] for one in own.redis.lrange(own.queue, 0, -1)] == calls
    finally:
        own.close()
