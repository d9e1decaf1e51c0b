"""How outcomes are written."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals
from celery.app.task import Context
from celery.states import FAILURE, SUCCESS

from dynamo_tasks.errors import ServerRefusedError, ServerUnavailableError
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.app import create_app
from dynamo_tasks.queue.broker import backend as module
from dynamo_tasks.queue.broker import greenlets
from dynamo_tasks.queue.broker.backend import ResultBackend
from dynamo_tasks.queue.broker.envelope import persisted
from dynamo_tasks.queue.client.task import CallInfo, make_task
from dynamo_tasks.store.redis.refusals import ReplyError


class _Backend(ResultBackend):
    """One that has a success of every task already; notes what is read and written."""

    def __init__(self) -> None:
        app = Celery("test", set_as_current=False)
        app.tasks["ns.Worker.generate"] = SimpleNamespace(name="ns.Worker.generate", runs_on_loop=True)
        super().__init__(app=app, url="redis://127.0.0.1:1/0")
        self.done: list[str] = []

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        self.done.append("read")
        return {"status": SUCCESS}

    def _set_with_state(self, key: Any, value: Any, state: str) -> None:
        self.done.append(f"write {state}")


@pytest.mark.parametrize(
    ("task", "state", "done"),
    [
        ("ns.Worker.generate", SUCCESS, ["write SUCCESS"]),
        ("ns.Worker.generate", FAILURE, ["read"]),
        ("plain", SUCCESS, ["read"]),
        (None, SUCCESS, ["read"]),
    ],
)
def test_only_an_endpoints_success_is_written_without_a_look(
    task: str | None, state: str, done: list[str]
) -> None:
    backend = _Backend()
    backend._store_result("id", 1, state, request=SimpleNamespace(task=task))
    assert backend.done == done


def test_what_is_written_is_what_celery_writes() -> None:
    written = []
    backend = _Backend()
    backend._set_with_state = lambda *given: written.append(given)
    request = SimpleNamespace(task="ns.Worker.generate")
    backend._store_result(b"id", {"text": "x"}, SUCCESS, request=request)
    ((key, value, state),) = written
    assert (key, state) == (b"celery-task-meta-id", SUCCESS)
    meta = backend.decode(value)
    assert (meta["task_id"], meta["status"], meta["result"]) == ("id", SUCCESS, {"text": "x"})


def test_a_success_is_described_as_celery_does(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = _Backend()
    child = backend.app.AsyncResult("child")
    for more in (
        {},
        {"group": "g", "parent_id": "p", "children": [child]},
        {"group": None, "parent_id": None},
    ):
        request = SimpleNamespace(task="ns.Worker.generate", **more)
        ours = backend._plain_meta({"a": 1}, request)
        theirs = backend._get_result_meta(result={"a": 1}, state=SUCCESS, traceback=None, request=request)
        moments = [datetime.fromisoformat(meta.pop("date_done")) for meta in (ours, theirs)]
        assert ours == theirs
        assert moments[0].tzinfo is not None
        assert 0 <= (moments[1] - moments[0]).total_seconds() < 60


def test_an_extended_result_has_what_celery_puts_into_it() -> None:
    backend = _Backend()
    backend.app.conf.result_extended = True
    request = SimpleNamespace(
        task="ns.Worker.generate", args=[1], hostname="here", delivery_info={}, kwargs={}
    )
    meta = backend.decode(backend._success("id", 5, request))
    assert (meta["name"], meta["args"], meta["worker"], meta["result"]) == (
        "ns.Worker.generate",
        [1],
        "here",
        5,
    )


def test_a_result_goes_with_its_end_on_the_workers_own_connection_alone() -> None:
    backend = _Backend()
    request = SimpleNamespace(task="ns.Worker.generate")
    assert backend.kept_result("id", 5, request) is None
    backend._link = lambda: None
    kept = backend.kept_result("id", 5, request)
    assert kept is not None
    assert (kept.key, kept.ttl) == (b"celery-task-meta-id", 24 * 3600)
    assert backend.decode(kept.value)["result"] == 5
    assert backend.kept_result("id", "x" * (module._MOST_KEPT + 1), request) is None
    setattr(request, module.WRITTEN, True)
    assert backend._store_result("id", 5, SUCCESS, request=request) == 5
    assert backend.done == []


class _Link:
    """A connection whose transactions are answered with these replies, or never."""

    address = "nowhere"

    def __init__(self, replies: list[Any] | None):
        self._replies = replies
        self.sent: list[bytes] = []

    async def wire(self) -> Any:
        return self

    async def transaction(self, packed: list[bytes]) -> list[Any]:
        self.sent += packed
        return await asyncio.Future() if self._replies is None else self._replies


def write(replies: list[Any] | None, ttl: float | None = 60) -> list[bytes]:
    link: Any = _Link(replies)
    asyncio.run(module._write(link, "key", "value", ttl))
    return link.sent  # type: ignore[no-any-return]


def test_a_result_is_kept_for_its_time_and_told() -> None:
    assert [command.split(b"\r\n")[2::2] for command in write([b"OK", 1])] == [
        [b"SETEX", b"key", b"60", b"value"], [b"PUBLISH", b"key", b"value"],
    ]  # fmt: skip
    assert write([b"OK", 0], None)[0].split(b"\r\n")[2] == b"SET"


def test_a_server_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_TIMEOUT", 0.01)
    with pytest.raises(ServerUnavailableError, match="no answer"):
        write(None)


@pytest.mark.parametrize(
    ("text", "kind"), [("ERR invalid expire time", ReplyError), ("READONLY", ServerRefusedError)]
)
def test_what_the_server_refuses_is_no_success(text: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        write([Exception(text), 1])


def test_a_result_is_left_to_celery_where_code_runs_behind_it() -> None:
    app = create_app("alone", server_url="redis://127.0.0.1:1/0", make_host=lambda *_, **__: None)
    task = make_task(app, EndpointId("alone", "Lab", "echo"))
    assert all(map(task.leaves_alone, ("on_success", "after_return")))
    task.after_return = lambda *_: None  # as task_annotations set it
    assert task.leaves_alone("on_success")
    assert not task.leaves_alone("after_return")


@pytest.mark.parametrize(
    ("more", "alone"),
    [({}, True), ({"callbacks": [1]}, False), ({"chord": 1}, False), ({"ignore_result": True}, False)],
)
def test_only_a_result_that_is_all_goes_with_the_end(more: dict[str, Any], alone: bool) -> None:
    backend = _Backend()
    backend._link = lambda: None
    asked = {
        "id": "x", "retries": 0, "delivery_info": {}, "callbacks": None, "errbacks": None, "chain": None, "chord": None,
        "group": None, "ignore_result": False, "task": "ns.Worker.generate", **more,
    }  # fmt: skip
    request = Context(asked)
    task = SimpleNamespace(backend=backend, leaves_alone=lambda hook: True)
    call = CallInfo(request, task)
    assert (call.kept_result(1) is not None) == alone
    assert (
        CallInfo(request, SimpleNamespace(backend=backend, leaves_alone=lambda _: False)).kept_result(1)
        is None
    )
    with _listening(signals.task_success):
        assert call.kept_result(1) is None


@contextlib.contextmanager
def _listening(signal: Any) -> Iterator[None]:
    def receiver(**_: Any) -> None: ...

    signal.connect(receiver)
    try:
        yield
    finally:
        signal.disconnect(receiver)


def test_where_else_a_result_is_told_is_known_in_threads_too(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, told = _Backend(), []

    def work() -> None:
        with backend._telling({"dynamo": {"v": 1, "re": "client-1"}}):
            module._call_aside(lambda: told.append(module._inbox.get()))

    asyncio.run(greenlets.run(work))
    assert told == [b"celery-task-meta-client-1"]


def test_the_channel_of_a_client_lasts() -> None:
    assert persisted({"v": 9, "re": "client-1", "dl": 5.0}) == {"v": 1, "re": "client-1"}
    for header in (None, {}, {"v": 1}, 5, {"re": ""}):
        assert persisted(header) == {"v": 1}
