"""``.delay()`` without Celery's detours: the same message and the same record, and Celery's way where it is wanted."""

from __future__ import annotations

import base64
import datetime
import functools
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery, Task, signals
from kombu import Producer
from kombu.exceptions import OperationalError

from dynamo_tasks.errors import IdempotencyConflictError, InvalidRequestError, QueueFullError
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.app import create_app
from dynamo_tasks.queue.client import direct
from dynamo_tasks.queue.client.eager import eager_values
from dynamo_tasks.queue.client.task import make_task
from tests.support.promises import in_time
from tests.support.queue import Lab
from tests.support.server import RedisServer, free_port

PAYLOADS = [
    {"n": 3, "text": "naïve 🙂", "ids": list(range(500))},
    None,
    "text",
    {"when": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "price": Decimal("1.5"), "pair": (1, 2)},
]
OPTIONS: list[dict[str, Any]] = [
    {}, {"tenant": "t", "weight": 2.0, "background": True}, {"deadline": 60, "abandon_after": 1.5},
    {"idempotency_key": "k", "retention": 5, "max_queue": 1000}, {"preemptible": True},
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
    message = json.loads(record.pop("message"))
    body, encoding = message["body"], message["properties"].pop("body_encoding")
    message["body"] = json.loads(base64.b64decode(body) if encoding == "base64" else body)
    assert message["properties"].pop("delivery_tag")
    message["properties"].pop("argsrepr", None)  # Celery puts this option among the properties, too
    record.pop("created")
    record.pop("deadline", None)
    return json.loads(json.dumps(message).replace(request_id, "<id>")), record


@pytest.fixture
def published(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of what goes Celery's way; the connection is there."""
    lab.task("echo").delay({})
    sent: list[str] = []
    publish = Producer._publish

    def noted(
        self: Any, body: Any, priority: Any, content_type: Any, encoding: Any, headers: Any, *more: Any
    ) -> Any:
        sent.append(headers["id"])
        return publish(self, body, priority, content_type, encoding, headers, *more)

    monkeypatch.setattr(Producer, "_publish", noted)
    return sent


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_message_and_record_are_those_of_celerys_way(
    lab: Lab, published: list[str], payload: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "idempotency_key" in options:  # one key stands for one request
        options = {**options, "idempotency_key": f"k{PAYLOADS.index(payload)}"}
    short = lab.call("echo", payload, **options)
    made = queued(lab, short.id)
    if "idempotency_key" in options:
        options["idempotency_key"] += "-celery"
    with monkeypatch.context() as patch:
        patch.setattr(direct, "_is_plain", lambda app, task: False)
        long = lab.call("echo", payload, **options)
    celerys = queued(lab, long.id)
    headers = celerys[0]["headers"]
    # What is left out says nothing: Celery reads it as what its own messages say.
    for name in headers.keys() - made[0]["headers"].keys():
        assert headers.pop(name) in (None, 0, {}, [None, None]), name
    assert made == celerys
    assert published == [long.id]
    assert (type(short), short.namespace, short.ignored) == (type(long), long.namespace, long.ignored)


def test_the_usual_call_takes_the_short_way(lab: Lab, published: list[str]) -> None:
    assert lab.state(lab.task("echo").delay({"a": 1}).id) == "QUEUED"
    assert lab.task("echo").s({"a": 1}).delay().id
    chosen = lab.task("echo").apply_async([{"a": 1}], task_id="chosen", headers={"x-mine": "1"})
    assert chosen.id == "chosen"
    assert queued(lab, "chosen")[0]["headers"]["x-mine"] == "1"
    assert published == []


@pytest.mark.parametrize(
    "options",
    [
        {"countdown": 60}, {"expires": 60}, {"priority": 5}, {"link": []}, {"queue": "direct-elsewhere"},
        {"headers": {"number": 1}}, {"headers": {"expires": "2030-01-01T00:00:00"}},
        {"ignore_result": True}, {"time_limit": 5}, {"shadow": "other"},
        {"serializer": "json"}, {"retry": False},
    ],
)  # fmt: skip
def test_whatever_is_asked_of_celery_goes_celerys_way(
    lab: Lab, options: dict[str, Any], published: list[str]
) -> None:
    assert [lab.call("echo", {}, **options).id] == published


def test_code_around_celerys_steps_is_run(
    lab: Lab, published: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    for owner, name in ((Task, "apply_async"), (Celery, "send_task"), (Producer, "publish")):
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapper(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
            ran.append(_original.__name__)
            return _original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, wrapper)
            lab.task("echo").delay({})
    lab.task("echo").delay({})
    assert ran == ["apply_async", "send_task", "publish"]
    assert len(published) == 3


def test_an_application_with_a_send_task_of_its_own_is_asked(
    lab: Lab, published: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    send = lab.app.send_task
    with monkeypatch.context() as patch:
        patch.setattr(
            lab.app,
            "send_task",
            lambda *args, **kwargs: send(*args, **{**kwargs, "headers": kwargs["headers"] | {"x": "1"}}),
        )
        result = lab.task("echo").delay({})
    assert published == [result.id]
    assert queued(lab, result.id)[0]["headers"]["x"] == "1"


def test_routes_that_come_later_hold(redis_server: RedisServer) -> None:
    own = Lab(redis_server, "direct_routes")
    try:
        own.task("echo").delay({})
        first = own.task("echo").delay({})
        own.app.conf.update(task_routes={own.task("echo").name: {"priority": 6}})
        second = own.task("echo").delay({})
        assert (own.record(first.id).get("suffix"), own.record(second.id)["suffix"]) == (None, "\x06\x166")
    finally:
        own.close()


@pytest.mark.usefixtures("published")
def test_mistakes_are_celerys_errors(lab: Lab) -> None:
    for args in ({"prompt": "hi"}, "hi", {5}):
        with pytest.raises(TypeError, match="task args must be a list or tuple"):
            lab.task("echo").apply_async(args)
    with pytest.raises(InvalidRequestError, match="no JSON value"):
        lab.task("echo").delay({"a": object()})


def test_a_server_that_is_not_there_is_reported_soon() -> None:
    app = create_app(
        "nowhere", server_url=f"redis://127.0.0.1:{free_port()}/0", make_host=lambda *_, **__: None
    )
    task = make_task(app, EndpointId("nowhere", "Lab", "echo"))

    def seconds() -> float:
        began = time.monotonic()
        with pytest.raises(OperationalError):
            task.delay({})
        return time.monotonic() - began

    in_time(seconds, 2)
    app.close()


def test_what_the_server_refuses_is_celerys_error(
    lab: Lab, published: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(channel: Any, new: Any) -> str:
        raise redis.exceptions.ReadOnlyError("READONLY")

    monkeypatch.setattr(direct, "submit", refused)
    result = lab.task("echo").delay({})
    assert published == [result.id]


@pytest.mark.usefixtures("published")
def test_a_call_that_is_interrupted_leaves_no_answer_for_the_next_one(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = redis.connection.AbstractConnection.read_response

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(redis.connection.AbstractConnection, "read_response", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lab.task("echo").delay({"first": 1})
    assert redis.connection.AbstractConnection.read_response is read
    ids = [lab.task("echo").delay({"n": n}).id for n in range(3)]
    assert [lab.state(one) for one in ids] == ["QUEUED"] * 3


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("task_send_sent_event", True), ("task_routes", {"other": {"queue": "other"}}),
        ("task_compression", "gzip"), ("task_default_delivery_mode", 1),
    ],
)  # fmt: skip
def test_settings_of_publishing_are_heeded(
    lab: Lab, published: list[str], monkeypatch: pytest.MonkeyPatch, setting: str, value: Any
) -> None:
    """Where one is set, calls go Celery's way."""
    with monkeypatch.context() as patch:
        patch.setitem(lab.app.conf, setting, value)
        lab.app.__dict__.pop("amqp", None)  # Celery reads most of them once
        assert published == [lab.task("echo").delay({}).id]
    lab.app.__dict__.pop("amqp", None)
    lab.task("echo").delay({})
    assert len(published) == 1


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


def test_a_key_stands_for_one_call_whichever_way_it_comes(
    lab: Lab, published: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lab.call("echo", {"text": "naïve"}, idempotency_key="both")
    monkeypatch.setattr(direct, "_is_plain", lambda app, task: False)
    assert lab.call("echo", {"text": "naïve"}, idempotency_key="both").id == first.id
    assert len(published) == 1


def test_a_connection_that_was_lost_is_made_again(lab: Lab) -> None:
    before = lab.task("echo").delay({})
    names = [client for client in lab.redis.client_list() if client["id"] != str(lab.redis.client_id())]
    for client in names:
        lab.redis.client_kill_filter(_id=client["id"])
    after = lab.task("echo").delay({})
    assert (lab.state(before.id), lab.state(after.id)) == ("QUEUED", "QUEUED")


def test_a_channel_that_was_closed_on_a_connection_that_lives_is_not_taken() -> None:
    connection: Any = SimpleNamespace(connected=True)
    for is_closed in (False, True):
        channel = SimpleNamespace(closed=is_closed)
        assert direct.CachedChannel(os.getpid(), connection, channel).is_open is not is_closed


def test_where_the_short_way_fails_celerys_own_retries(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, calls, submit = Lab(redis_server, "direct_lost"), [], direct.submit
    own.task("echo").delay({})
    own.redis.delete(own.queue)

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


def test_a_channel_that_may_have_one_connection(redis_server: RedisServer) -> None:
    own = Lab(redis_server, "direct_one")
    own.app.server_url  # noqa: B018 - it makes the settings
    own.app.conf.broker_transport_options = {**own.app.conf.broker_transport_options, "max_connections": 1}
    try:
        for flush in (True, False):
            if flush:
                own.redis.script_flush()
            ids = [own.call("echo", n).id for n in range(3)]
            assert [own.state(one) for one in ids] == ["QUEUED"] * 3
            assert own.call("echo", 1, countdown=60).id
        own.redis.client_kill_filter(_type="normal", skipme=True)
        assert own.state(own.call("echo", 1).id) == "QUEUED"
        assert own.app.control.ping(timeout=0.1) == []
    finally:
        own.close()


def test_a_child_of_a_forked_process_has_connections_of_its_own(lab: Lab, published: list[str]) -> None:
    first = lab.task("echo").delay({"n": 0})
    child = os.fork()
    if not child:
        made = [lab.task("echo").delay({"n": n}).id for n in range(20)]
        os._exit(sum(lab.state(one) != "QUEUED" for one in made) + len(published))
    mine = [lab.task("echo").delay({"n": n}).id for n in range(20)]
    assert os.waitpid(child, 0)[1] == 0
    assert [lab.state(one) for one in (first.id, *mine)] == ["QUEUED"] * 21


def test_calls_of_many_threads_at_once(lab: Lab, published: list[str]) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda n: (n, lab.task("echo").delay({"n": n}).id), range(200)))
    for n, one in made:
        assert queued(lab, one)[0]["body"][0] == [{"n": n}]


def test_a_call_of_an_endpoint_that_runs_eagerly(lab: Lab, published: list[str]) -> None:
    token = eager_values.set([])
    try:
        call = lab.task("echo").delay({"n": 1})
    finally:
        eager_values.reset(token)
    assert (lab.state(call.id), published) == ("QUEUED", [])
