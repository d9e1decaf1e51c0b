"""Remote control commands that do more than Celery's own.

``revoke`` acts at once on what waits in a queue or for its time. ``time_limit`` holds for the next message:
Celery's own changes the task, but the worker goes on with the limits that it read when it started.
``pool_shrink`` leaves one slot.
"""

from __future__ import annotations

from typing import Any

from celery.app.control import Control
from celery.utils.functional import maybe_list
from celery.worker.control import Panel

__all__ = ["JsonControl", "install"]

_stock_revoke, _stock_time_limit = Panel.data["revoke"], Panel.data["time_limit"]
_stock_shrink = Panel.data["pool_shrink"]


class JsonControl(Control):  # type: ignore[misc]
    """Commands go out as JSON, which all workers read, whatever an application's tasks are serialized as."""

    def __init__(self, app: Any = None):
        super().__init__(app)
        self.mailbox.serializer = "json"
        self.mailbox.accept = list({*self.mailbox.accept, "json"})


def _revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:
    drops = state.app.executor.drops
    for one in maybe_list(task_id) or []:
        drops.spawn(drops.revoke(str(one)))
    return _stock_revoke(state, task_id, terminate=terminate, signal=signal, **kwargs)


def _time_limit(state: Any, task_name: Any = None, hard: Any = None, soft: Any = None, **kwargs: Any) -> Any:
    reply = _stock_time_limit(state, task_name=task_name, hard=hard, soft=soft, **kwargs)
    state.consumer.update_strategies()
    return reply


def _pool_shrink(state: Any, n: int = 1, **kwargs: Any) -> Any:
    return _stock_shrink(state, n=min(n, state.consumer.pool.limit - 1), **kwargs)


def install() -> None:
    """Replace Celery's own commands in this process."""
    Panel.data["pool_shrink"] = _pool_shrink
    Panel.data["time_limit"] = _time_limit
    Panel.data["revoke"] = _revoke
