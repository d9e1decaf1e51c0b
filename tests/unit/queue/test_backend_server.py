"""Which server results go to, and on which connection."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

import dynamo_tasks
from dynamo_tasks.queue.app import DynamoApp

SOCKET = "redis+socket:///run/r.sock?virtual_host=3"


def worker_app(url: str) -> Any:
    app = DynamoApp("test", set_as_current=False, server_url=lambda: url, make_host=lambda **_: None)
    app.is_worker = True
    return app


@pytest.mark.parametrize("url", ["redis://h:1/2", "unix:///run/r.sock?db=3"])
def test_a_worker_writes_results_on_its_own_connection(url: str) -> None:
    assert worker_app(url).backend.writes_on_loop


def test_results_that_go_to_another_server_are_left_to_celery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://elsewhere:1/0")
    backend = worker_app("redis://h:1/2").backend
    assert backend.connparams["host"] == "elsewhere"
    assert not backend.writes_on_loop


def test_an_application_behind_a_unix_socket_keeps_results_there() -> None:
    app = Celery("shop", broker=SOCKET, set_as_current=False)
    dynamo_tasks.install(app)
    made = app.endpoint_backend.connparams
    assert (made["path"], made["db"]) == ("/run/r.sock", 3)
