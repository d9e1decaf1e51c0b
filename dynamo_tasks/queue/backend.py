"""Celery's Redis result backend, which waits for a lost server instead of losing the result.

Celery drops a result (and settles the task all the same) where its server is away at the wrong moment, after
twenty attempts with a sleep in between, which would stop the event loop. Here a result is written until it is
written; the loop goes on, since the tracer's greenlet is suspended meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from celery.backends.redis import RedisBackend

from dynamo_tasks.observe.calm import Calm
from dynamo_tasks.observe.log import event
from dynamo_tasks.queue.greenlets import await_, in_greenlet

__all__ = ["PrefixedResultBackend", "ResultBackend"]

_RETRY = 0.2


class ResultBackend(RedisBackend):  # type: ignore[misc]
    """The backend of a dynamo-tasks application; ``waits`` is set in worker processes."""

    waits = False

    @property
    def retry_policy(self) -> dict[str, Any]:
        """kombu's retry policy for one operation: in a worker none, since its sleep would stop the loop."""
        policy: dict[str, Any] = super().retry_policy
        return {**policy, "max_retries": 0} if self.waits else policy

    def _ensure_retryable(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        on_loop = not in_greenlet() and threading.current_thread() is threading.main_thread()
        if not self.waits or on_loop:
            return super()._ensure_retryable(func, *args, **kwargs)
        for unused in ("fallback_exc", "fallback_msg", "max_retries"):
            kwargs.pop(unused, None)
        failures = Calm()
        while True:
            try:
                return func(*args, **kwargs)
            except self.connection_errors as exc:
                if failures.due():
                    event(
                        "store.reconnect_failed", connection="results", server=self.as_uri(), error=str(exc)
                    )
                self._sleep(_RETRY)

    def _sleep(self, amount: float) -> None:
        if in_greenlet():
            await_(asyncio.sleep(amount))
        else:
            time.sleep(amount)


class PrefixedResultBackend(ResultBackend):
    """The same under the application's own prefix; Celery's option for that would add an underscore to some."""

    def _add_global_keyprefix(self) -> None:
        for name in ("task_keyprefix", "group_keyprefix", "chord_keyprefix"):
            setattr(self, name, self.app.key_prefix + getattr(self, name))
