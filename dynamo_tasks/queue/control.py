"""Remote control: ``revoke`` acts at once on what waits in a queue or for its time."""

from __future__ import annotations

from typing import Any

from celery.utils.functional import maybe_list
from celery.worker.control import Panel

__all__ = ["install"]

_stock = Panel.data["revoke"]


def _revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:
    drops = state.app.executor.drops
    for one in maybe_list(task_id) or []:
        drops.spawn(drops.revoke(str(one)))
    return _stock(state, task_id, terminate=terminate, signal=signal, **kwargs)


def install() -> None:
    """Replace Celery's own command in this process."""
    Panel.data["revoke"] = _revoke
