"""Tasks that tell when they ran, in an application of Celery's own (``TIMED_STOCK``) or in ours."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

from dynamo_tasks import app as our_app
from dynamo_tasks import dynamo_endpoint, service

__all__ = ["Idle", "app", "stock"]


def stock(url: str) -> Celery:
    """An application as Celery's first steps show it."""
    return Celery("timed", broker=url, backend=url, set_as_current=False)


app: Any = stock(os.environ["TIMED_STOCK"]) if "TIMED_STOCK" in os.environ else our_app


@service(dynamo={"namespace": "timed", "name": "Idle"})
class Idle:
    """What a worker of ours must serve besides."""

    @dynamo_endpoint()
    async def stamp(self, request: dict) -> float:
        """The time."""
        return time.time()


@app.task(name="timed.stamp")
def stamp(*args: Any) -> float:
    """The time."""
    return time.time()


@app.task(name="timed.limited", rate_limit="10/s")
def limited(*args: Any) -> float:
    """The time, ten times a second."""
    return time.time()


@app.task(name="timed.rare", rate_limit="1/h")
def rare(*args: Any) -> float:
    """The time, once an hour."""
    return time.time()


@app.task(name="timed.again", bind=True, max_retries=3)
def again(self: Any) -> float:
    """The time after three retries."""
    if self.request.retries < 3:
        raise self.retry(countdown=0.1)
    return time.time()
