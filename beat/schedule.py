"""What ``celery -A dynamo_tasks beat`` starts, and when: the entries of ``SCHEDULE``.

An entry names an endpoint by its task name; its request is the one argument. Nobody reads its stream, so it
runs in the background and its answer is kept for an hour::

    from celery.schedules import crontab

    SCHEDULE = {
        "summary-of-the-night": {
            "task": "dynamo.Worker.generate",
            "schedule": crontab(hour=6, minute=30),
            "args": [{"prompt": "Summarize the alerts of the night.", "max_tokens": 400}],
            "options": {"queue": "dynamo|Worker", "expires": 3600},
        },
    }

Nothing that keeps the system alive is scheduled here: recovery, retention and timers are the business of the
workers and frontends themselves, so that beat may be down, or not run at all.
"""

from __future__ import annotations

from typing import Any

__all__ = ["SCHEDULE", "install"]

SCHEDULE: dict[str, dict[str, Any]] = {}
"""Name of an entry → the entry, as in Celery's ``beat_schedule``; empty until you schedule something."""


def install(app: Any) -> None:
    """Add the entries to an application; called when ``dynamo_tasks.app`` is made.

    Args:
        app: A Celery application. Entries that it has already, under other names, stay.
    """
    app.conf.beat_schedule = {**(app.conf.beat_schedule or {}), **SCHEDULE}
