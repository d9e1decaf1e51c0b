"""Somebody's Celery application: its own queue and routes, prefork workers, and results only if it is told so."""

from __future__ import annotations

import os
from typing import Any

from billiard.process import current_process
from celery import Celery
from kombu import Queue

import dynamo_tasks
from tests.support.shop_teller import Teller

__all__ = ["app", "make_app"]


def make_app(broker: str, prefix: str, **settings: Any) -> Celery:
    """The application on a broker of the test's choice."""
    made = Celery("shop", broker=broker, set_as_current=False)
    made.conf.update(
        broker_transport_options={"global_keyprefix": prefix} if prefix else {},
        task_default_queue="shop",
        task_queues=[Queue("shop")],
        task_create_missing_queues=False,
        task_routes={"*": {"queue": "shop", "priority": 3}},
        **settings,
    )
    dynamo_tasks.install(made, "tests.support.shop_teller:Teller")
    return made


app = make_app(
    os.environ.get("SHOP_BROKER", "redis://127.0.0.1:6379/0"), os.environ.get("SHOP_PREFIX", ""),
    result_backend=os.environ.get("SHOP_RESULTS"),
)  # fmt: skip
if "SHOP_LATE_BROKER" in os.environ:
    app.conf.broker_url = os.environ["SHOP_LATE_BROKER"]


@app.task
def poem(words: int) -> str:
    """A plain task of a prefork worker that reads a stream, live."""
    return " ".join(Teller.tell.delay(words))


@app.task
def where() -> str:
    """Who runs plain tasks here."""
    return type(current_process()).__name__
