"""How outcomes are written."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.states import FAILURE, SUCCESS

from dynamo_tasks.queue.backend import ResultBackend


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
