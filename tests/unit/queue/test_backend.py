"""How outcomes are written."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals
from celery.app.task import Context
from celery.backends.redis import RedisBackend
from celery.states import FAILURE, PENDING, SUCCESS

from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue import greenlets
from dynamo_tasks.queue.app import create_app
from dynamo_tasks.queue.broker import backend as module
from dynamo_tasks.queue.broker.backend import ResultBackend
from dynamo_tasks.queue.broker.envelope import persisted
from dynamo_tasks.queue.client.task import CallInfo, make_task
from dynamo_tasks.store.redis.refusals import ReplyError

ENDPOINT = "ns.Worker.generate"


def _app() -> Celery:
    app = Celery("test", set_as_current=False)
    app.tasks[ENDPOINT] = SimpleNamespace(name=ENDPOINT, runs_on_loop=True)
    return app


class _Noted:
    """A backend without a server; notes what is read and written.

    Attributes:
        there: The state of every task's result.
    """

    there = SUCCESS

    def __init__(self, **options: Any) -> None:
        super().__init__(app=_app(), url="redis://127.0.0.1:1/0", **options)
        self.done: list[str] = []
        self.written: list[tuple[Any, Any]] = []

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        self.done.append("read")
        return {"status": self.there}

    def _set_with_state(self, key: Any, value: Any, state: str) -> None:
        self.done.append(f"write {state}")
        self.written.append((key, value))


class _Backend(_Noted, ResultBackend):
    """Ours."""


class _Celerys(_Noted, RedisBackend):  # type: ignore[misc]
    """Celery's own, which finds nothing that it would keep."""

    there = PENDING


def _written(backend: Any, request: Any) -> dict[str, Any]:
    """A success as it is stored."""
    backend.store_result("id", {"a": 1}, SUCCESS, request=request)
    (_, value) = backend.written.pop()
    found: dict[str, Any] = backend.decode(value)
    return found


@pytest.mark.parametrize(
    ("task", "state", "done"),
    [
        (ENDPOINT, SUCCESS, ["write SUCCESS"]),
        (ENDPOINT, FAILURE, ["read"]),
        ("plain", SUCCESS, ["read"]),
        (None, SUCCESS, ["read"]),
    ],
)
def test_only_an_endpoints_success_is_written_without_a_look(
    task: str | None, state: str, done: list[str]
) -> None:
    backend = _Backend()
    backend.store_result("id", 1, state, request=SimpleNamespace(task=task))
    assert backend.done == done


def test_what_is_written_is_what_celery_writes() -> None:
    ours, theirs = _Backend(), _Celerys()
    child = ours.app.AsyncResult("child")
    for more in (
        {},
        {"group": "g", "parent_id": "p", "children": [child]},
        {"group": None, "parent_id": None},
    ):
        request = SimpleNamespace(task=ENDPOINT, **more)
        made = [_written(backend, request) for backend in (ours, theirs)]
        moments = [datetime.fromisoformat(meta.pop("date_done")) for meta in made]
        assert made[0] == made[1]
        assert moments[0].tzinfo is not None
        assert 0 <= (moments[1] - moments[0]).total_seconds() < 60
    ours.store_result(b"id", 1, SUCCESS, request=request)
    theirs.store_result(b"id", 1, SUCCESS, request=request)
    assert [key for key, _ in ours.written] == [key for key, _ in theirs.written] == [b"celery-task-meta-id"]


def test_an_extended_result_has_what_celery_puts_into_it() -> None:
    backend = _Backend()
    backend.app.conf.result_extended = True
    request = SimpleNamespace(task=ENDPOINT, args=[1], hostname="here", delivery_info={}, kwargs={})
    meta = _written(backend, request)
    assert (meta["name"], meta["args"], meta["worker"], meta["result"]) == (ENDPOINT, [1], "here", {"a": 1})


def test_a_result_goes_with_its_end_on_the_workers_own_connection_alone() -> None:
    request = SimpleNamespace(task=ENDPOINT)
    assert _Backend().kept_result("id", 5, request) is None
    backend = _Backend(link=lambda: None)
    kept = backend.kept_result("id", 5, request)
    assert kept is not None
    assert (kept.key, kept.ttl) == (b"celery-task-meta-id", 24 * 3600)
    assert backend.decode(kept.value)["result"] == 5
    assert backend.kept_result("id", "x" * (module._MOST_KEPT + 1), request) is None
    setattr(request, module.WRITTEN, True)
    assert backend.store_result("id", 5, SUCCESS, request=request) == 5
    assert backend.done == []


def _asked(**more: Any) -> Context:
    return Context(
        {
            "id": "x", "retries": 0, "delivery_info": {}, "callbacks": None, "errbacks": None, "chain": None,
            "chord": None, "group": None, "ignore_result": False, "task": ENDPOINT, **more,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("header", "inbox"),
    [
        ({"v": 1, "re": "client-1"}, b"celery-task-meta-client-1"),
        *(
            ({"v": 1, "re": bad}, "")
            for bad in ("dt:dynamo:alive:1", "", None, 5, "client-" + "x" * 100, ["client-1"])
        ),
        ({}, ""),
        (None, ""),
        (1, ""),
    ],
)
def test_a_message_names_the_inbox_of_a_client_and_no_other_channel(header: Any, inbox: bytes | str) -> None:
    kept = _Backend(link=lambda: None).kept_result("id", 5, _asked(dynamo=header))
    assert kept is not None
    assert kept.inbox == inbox


class _Link:
    """A worker's own connection, whose transactions are answered with these replies, or never."""

    address = "nowhere"

    def __init__(self, replies: list[Any] | None):
        self._replies = replies
        self.sent: list[list[bytes]] = []

    async def wire(self) -> Any:
        return self

    async def transaction(self, packed: list[bytes]) -> list[Any]:
        self.sent += [command.split(b"\r\n")[2::2] for command in packed]
        return await asyncio.Future() if self._replies is None else self._replies


class _Client:
    """Celery's own connection; notes what it is asked for, by which thread."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.threads: set[threading.Thread] = set()

    def __getattr__(self, command: str) -> Any:
        def ask(*arguments: Any) -> None:
            self.threads.add(threading.current_thread())
            self.asked.append((command, *arguments))

        return ask

    @contextlib.contextmanager
    def pipeline(self) -> Iterator[_Client]:
        yield self


@dataclass
class _Worker:
    """A worker's backend on its loop, whose own connection answers with these replies."""

    link: _Link
    client: _Client = field(default_factory=_Client)

    def store(self, *, expires: float | None = 60, **more: Any) -> None:
        """Store an endpoint's success as a task of the worker does."""
        link: Any = self.link
        backend = ResultBackend(
            app=_app(), url="redis://127.0.0.1:1/0", waits=True, link=lambda: link, expires=expires
        )
        backend.client = self.client
        asyncio.run(greenlets.run(backend.store_result, "id", 5, SUCCESS, request=_asked(**more)))


def test_a_result_is_kept_for_its_time_and_announced() -> None:
    link = _Link([b"OK", 1, 1])
    _Worker(link).store(dynamo={"v": 1, "re": "client-1"})
    kept, told, told_inbox = link.sent
    assert kept[:3] == [b"SETEX", b"celery-task-meta-id", b"60"]
    assert told == [b"PUBLISH", b"celery-task-meta-id", kept[3]]
    assert told_inbox == [b"PUBLISH", b"celery-task-meta-client-1", kept[3]]
    for_ever = _Link([b"OK", 0])
    _Worker(for_ever).store(expires=0)
    assert for_ever.sent[0][:2] == [b"SET", b"celery-task-meta-id"]
    assert len(for_ever.sent) == 2


@pytest.mark.parametrize("replies", [None, [Exception("READONLY"), 1]], ids=["silent", "refused"])
def test_a_server_that_does_not_take_it_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, replies: list[Any] | None
) -> None:
    """In a thread, so that the loop goes on; what the message says holds there, too."""
    monkeypatch.setattr(module, "CONNECT_TIMEOUT", 0.01)
    worker = _Worker(_Link(replies))
    worker.store(dynamo={"v": 1, "re": "client-1"})
    assert [asked[:2] for asked in worker.client.asked] == [
        ("setex", b"celery-task-meta-id"), ("publish", b"celery-task-meta-id"), ("execute",),
        ("publish", b"celery-task-meta-client-1"),
    ]  # fmt: skip
    assert threading.current_thread() not in worker.client.threads


def test_what_the_server_refuses_for_good_is_no_success() -> None:
    with pytest.raises(ReplyError):
        _Worker(_Link([Exception("ERR invalid expire time"), 1])).store()


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
    backend = _Backend(link=lambda: None)
    request = _asked(**more)
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


def test_the_channel_of_a_client_lasts() -> None:
    assert persisted({"v": 9, "re": "client-1", "named": True}) == {"v": 1, "re": "client-1"}
    for header in (None, {}, {"v": 1}, 5, {"re": ""}):
        assert persisted(header) == {"v": 1}
