"""Results of a process come over one subscription, and nothing is lost where they do not."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult, GroupResult, ResultSet

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.queue.broker import replies
from dynamo_tasks.queue.broker.replies import Replies
from dynamo_tasks.queue.client import direct
from tests.support.processes import until
from tests.support.promises import in_time
from tests.support.queue import Lab
from tests.support.server import RedisServer

pytestmark = pytest.mark.usefixtures("worker")


class Inboxes(dict[str, str | None]):
    """The inbox that each call of an application was told to name; ``None``: its result is fetched in Celery's way."""

    def __init__(self, lab: Lab, monkeypatch: pytest.MonkeyPatch):
        self.lab = lab
        self.consumer: Replies = lab.app.backend.result_consumer
        expect = self.consumer.expect

        def noted(result: Any) -> str | None:
            self[result.id] = expect(result)
            return self[result.id]

        monkeypatch.setattr(self.consumer, "expect", noted)

    def is_notified(self, result: Any) -> bool:
        """The result comes over the one subscription."""
        return self.get(result.id) is not None

    def is_next_notified(self) -> bool:
        """One more call is, which comes to its end."""
        call = self.lab.call("echo", 0)
        assert call.get(timeout=30) == 0
        return self.is_notified(call)

    def until_notified(self, timeout: float = 30) -> None:
        """Until the application has its subscription."""
        until(self.is_next_notified, timeout, "the subscription")

    def break_subscription(self) -> None:
        """Close the connections on which results come, at the server's end."""
        for client in self.lab.redis.client_list(_type="pubsub"):
            if client["sub"] != "0" and not client["name"]:  # those of ours have names; kombu's have patterns
                self.lab.redis.client_kill_filter(_id=client["id"])


@pytest.fixture
def inboxes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inboxes]:
    """The application's, subscribed; nobody waits for anything."""
    found = Inboxes(lab, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(replies, "_MOST_UNREAD", 1)  # nothing of the test before is still to come
        found.until_notified()
    yield found
    assert not lab.app.backend._pending_messages, "a result that nobody waits for is kept"


def commands(lab: Lab) -> dict[str, int]:
    """How often the server was asked for what Celery asks for each result."""
    stats: Any = lab.redis.info("commandstats")
    names = ("subscribe", "unsubscribe", "get", "mget")
    return {name: stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in names}


def test_no_result_needs_a_command_of_its_own(lab: Lab, inboxes: Inboxes, monkeypatch: Any) -> None:
    monkeypatch.setattr(replies, "_MOST_UNREAD", 20)
    before = commands(lab)
    calls = [lab.call("echo", n) for n in range(20)]
    assert all(inboxes.is_notified(call) for call in calls)
    assert [call.get(timeout=30) for call in calls] == list(range(20))
    after = commands(lab)
    # A process beside this one may connect anew meanwhile: Celery's way would be 20 of each.
    assert max(after[name] - before[name] for name in ("subscribe", "unsubscribe")) <= 3
    more = [lab.call("echo", n) for n in range(20)]
    assert all(map(inboxes.is_notified, more))
    assert sorted(ResultSet(more, app=lab.app).join_native(timeout=30)) == list(range(20))
    assert inboxes.is_next_notified()


def test_a_failure_comes_as_fast(lab: Lab, inboxes: Inboxes) -> None:
    def measure() -> float:
        call, began = lab.call("fail", {}), time.monotonic()
        assert inboxes.is_notified(call)
        with pytest.raises(Exception, match=r".+"):
            call.get(timeout=30)
        return time.monotonic() - began

    for _ in range(5):
        in_time(measure, 0.9)  # who looks into the ledger waits for a second


@pytest.mark.parametrize("endpoint", ["flaky", "flaky_later"])
def test_a_retry_keeps_the_place(lab: Lab, inboxes: Inboxes, endpoint: str) -> None:
    payload = {"until": 2} | ({"countdown": 0.1} if endpoint == "flaky_later" else {})

    def measure() -> float:
        call, began = lab.call("flaky", payload), time.monotonic()
        assert inboxes.is_notified(call)
        assert call.get(timeout=30) == 2
        return time.monotonic() - began

    for _ in range(3):
        in_time(measure, 0.9)


def test_who_does_not_wait_finds_what_is_there(lab: Lab, inboxes: Inboxes) -> None:
    call = lab.call("echo", 5)
    until(lambda: lab.record(call.id).get("settled") == "1", what="Celery's completion is done")
    assert inboxes.is_notified(call)
    assert call.get(timeout=0) == 5


def test_callbacks_are_called(lab: Lab, inboxes: Inboxes) -> None:
    done: list[Any] = []
    first, second = lab.call("echo", 1), lab.call("echo", 2)
    second.then(lambda result: done.append(result.get()))
    until(lambda: second.ready() or first.get(timeout=30) is None, what="the second")
    first.get(timeout=30)
    until(lambda: bool(done) or lab.call("echo", 3).get(timeout=30) != 3, what="the callback")
    assert done == [2]


def test_others_who_wait_for_it_get_it_too(lab: Lab, inboxes: Inboxes) -> None:
    call = lab.call("count", {"n": 3, "delay": 0.05})
    other = AsyncResult(call.id, app=lab.app, backend=lab.app.backend)
    values: list[Any] = []
    thread = threading.Thread(target=lambda: values.append(other.get(timeout=30)))
    thread.start()
    assert call.get(timeout=30) == [0, 1, 2]
    thread.join(10)
    assert values == [[0, 1, 2]]


def test_many_threads(lab: Lab, inboxes: Inboxes) -> None:
    failures: list[Any] = []

    def ask(thread: int) -> None:
        try:
            for n in range(25):
                value = thread * 100 + n
                assert lab.call("echo", value).get(timeout=20) == value
        except Exception as exc:  # noqa: BLE001 - told in the end
            failures.append(exc)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


@pytest.mark.parametrize("is_waiting", [True, False])
def test_a_lost_connection_loses_no_result(lab: Lab, inboxes: Inboxes, is_waiting: bool) -> None:
    calls = [lab.call("count", {"n": 3, "delay": 0.1}) for _ in range(5)]
    assert all(inboxes.is_notified(call) for call in calls)
    if is_waiting:
        threading.Timer(0.1, inboxes.break_subscription).start()
    else:
        inboxes.break_subscription()
        lab.reaches(calls[-1].id, "SUCCEEDED")
    assert [call.get(timeout=30) for call in calls] == [[0, 1, 2]] * 5
    inboxes.until_notified()


@pytest.fixture
def unknowing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers do not see where results are told, as those of an older release."""
    real = direct.build_envelope
    monkeypatch.setattr(
        direct, "build_envelope", lambda *args, more, **kwargs: real(*args, more=without(more), **kwargs)
    )


@pytest.mark.usefixtures("unknowing")
def test_a_worker_that_does_not_know_of_it(lab: Lab, inboxes: Inboxes) -> None:
    def seconds() -> float:
        calls, began = [lab.call("echo", n) for n in range(10)], time.monotonic()
        assert all(inboxes.is_notified(call) for call in calls)
        assert [call.get(timeout=30) for call in calls] == list(range(10))
        return time.monotonic() - began

    in_time(seconds, 9)  # each for itself would be waited for for a second
    calls = [lab.call("echo", n) for n in range(4)]
    assert sorted(ResultSet(calls, app=lab.app).join_native(timeout=30)) == list(range(4))


@pytest.mark.usefixtures("unknowing")
def test_results_in_results_of_such_a_worker(lab: Lab, inboxes: Inboxes) -> None:
    groups = [GroupResult(f"g{n}", [lab.call("echo", n), lab.call("echo", n)], app=lab.app) for n in range(2)]
    assert GroupResult("all", groups, app=lab.app).join_native(timeout=30) == [[0, 0], [1, 1]]


@pytest.mark.usefixtures("unknowing")
def test_another_handle_of_a_call_of_such_a_worker(lab: Lab, inboxes: Inboxes) -> None:
    call = lab.call("count", {"n": 3, "delay": 0.2})
    other = AsyncResult(call.id, app=lab.app, backend=lab.app.backend)
    other.then(lambda _: None)
    del call
    gc.collect()
    assert other.get(timeout=30) == [0, 1, 2]


@pytest.mark.usefixtures("unknowing")
def test_callbacks_of_results_of_such_a_worker(lab: Lab, inboxes: Inboxes) -> None:
    done: list[str] = []
    call = lab.call("echo", 7)
    call.then(lambda result: done.append(result.id))
    until(
        lambda: done or lab.call("count", {"n": 2, "delay": 0.1}).get(timeout=30) is None, what="its callback"
    )
    assert done == [call.id]


def without(headers: dict[str, Any]) -> dict[str, Any]:
    """What an older release would see of a message."""
    return {name: {"v": 1} if name == "dynamo" else value for name, value in headers.items()}


def test_what_nobody_waits_for_is_dropped(lab: Lab, inboxes: Inboxes, monkeypatch: Any) -> None:
    monkeypatch.setattr(replies, "_MOST_UNREAD", 10)
    gone = [lab.call("echo", n).id for n in range(10)]
    gc.collect()
    for id in gone:
        lab.reaches(id, "SUCCEEDED")
    assert not inboxes.is_next_notified(), "as many as may come are on their way"
    assert inboxes.is_next_notified(), "they came, and went, with the last one"
    assert len(set(inboxes.values()) - {None}) == 1
    assert AsyncResult(gone[3], app=lab.app, backend=lab.app.backend).get(timeout=30) == 3


def test_no_more_come_than_the_server_should_keep(lab: Lab, inboxes: Inboxes, monkeypatch: Any) -> None:
    monkeypatch.setattr(replies, "_MOST_UNREAD", 5)
    calls = [lab.call("echo", n) for n in range(8)]
    assert [inboxes.is_notified(call) for call in calls] == [True] * 5 + [False] * 3
    assert [call.get(timeout=30) for call in calls] == list(range(8))
    assert inboxes.is_notified(lab.call("echo", 0))
    for n in range(4):
        lab.call("echo", n)
    assert not inboxes.is_notified(lab.call("echo", 0))
    monkeypatch.setattr(replies, "_NEVER", 0.0)
    assert inboxes.is_notified(lab.call("echo", 0))


def test_an_id_that_somebody_chose_may_be_that_of_another_call(lab: Lab, inboxes: Inboxes) -> None:
    first = lab.task("echo").apply_async((1,), task_id=f"mine-{time.time_ns()}")
    assert not inboxes.is_notified(first)
    assert first.get(timeout=30) == 1


def test_a_refused_call_is_not_expected(lab: Lab, inboxes: Inboxes, monkeypatch: Any) -> None:
    monkeypatch.setattr(replies, "_MOST_UNREAD", 1)
    with pytest.raises(InvalidRequestError, match="call option"):
        lab.task("echo").apply_async((1,), weight=-1)
    assert inboxes.is_next_notified()


def in_child(work: Callable[[], Any]) -> str:
    """What a forked process says, at most 4 KiB."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write, repr(work()).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        return pipe.read()


def test_a_child_gets_nothing_of_its_parents(lab: Lab, inboxes: Inboxes) -> None:
    assert in_child(lambda: inboxes.consumer.expect(lab.app.AsyncResult("x"))) == "None"
    assert inboxes.is_notified(lab.call("echo", 1))


def test_a_child_does_not_take_its_parents_results(lab: Lab, inboxes: Inboxes) -> None:
    def measure() -> float:
        calls = [lab.call("count", {"n": 1, "delay": 0.1}) for _ in range(3)]
        assert in_child(lambda: lab.call("count", {"n": 4, "delay": 0.1}).get(timeout=30)) == "[0, 1, 2, 3]"
        began = time.monotonic()
        assert [call.get(timeout=30) for call in calls] == [[0]] * 3
        assert lab.call("echo", 1).get(timeout=30) == 1
        return time.monotonic() - began

    in_time(measure, 0.7)


def test_after_celerys_fork_it_begins_anew(lab: Lab, inboxes: Inboxes) -> None:
    call = lab.call("echo", 1)
    inboxes.consumer.on_after_fork()
    assert not inboxes.is_next_notified()
    assert call.get(timeout=30) == 1
    inboxes.until_notified()
    assert len(set(inboxes.values()) - {None}) == 2


def test_where_it_may_not_look_it_is_as_ever(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.redis.acl_setuser(
        "plain", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"],
        commands=["+@all", "-pubsub|numsub"],
    )  # fmt: skip
    other = Lab(lab.server, lab.namespace, f"redis://plain:secret@127.0.0.1:{lab.server.port}")
    try:
        inboxes = Inboxes(other, monkeypatch)
        assert not any(inboxes.is_next_notified() for _ in range(3))
        refused = [entry for entry in lab.redis.acl_log() if entry["username"] == "plain"]
        assert [(entry["object"], entry["count"]) for entry in refused] == [("pubsub|numsub", 1)]
    finally:
        other.close()
        lab.redis.acl_deluser("plain")


def test_a_server_that_is_away_when_it_is_opened(lab: Lab, inboxes: Inboxes, monkeypatch: Any) -> None:
    def refuse(*_: Any) -> None:
        raise redis.exceptions.ConnectionError("away")

    inboxes.consumer.on_after_fork()
    with monkeypatch.context() as patch:
        patch.setattr(lab.app.backend.client, "pubsub_numsub", refuse)
        assert not any(inboxes.is_next_notified() for _ in range(3))
    inboxes.until_notified()


def test_a_server_that_was_away_tells_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RedisServer(tmp_path) as server:
        own = Lab(server, "replies_away")
        inboxes = Inboxes(own, monkeypatch)
        with own.worker():
            inboxes.until_notified()
            call = own.call("count", {"n": 1000, "delay": 0.1})
            server.kill()
            with pytest.raises(CeleryTimeoutError):
                call.get(timeout=1)
            server.start()
            inboxes.until_notified()
        own.close()
