"""Celery's beat, by itself and in a worker (``-B``)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

from celery.apps.beat import Beat as CeleryBeat
from celery.beat import EmbeddedService
from celery.worker.components import Beat as CeleryBeatStep

from dynamo_tasks.queue.broker.greenlets import await_
from dynamo_tasks.queue.worker.foreign import threads
from dynamo_tasks.queue.worker.shutdown import ignore_at_exit, once

__all__ = ["Beat", "BeatStep"]


class Beat(CeleryBeat):  # type: ignore[misc]
    """``celery beat``: no signal interrupts the opening or the writing of the schedule."""

    def install_sync_handler(self, service: Any) -> None:
        """Celery callback: signals. Celery's handler writes the schedule, so it must be open by then."""
        service.scheduler  # noqa: B018 - opens it
        super().install_sync_handler(service)
        debounce = once()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, debounce(signal.getsignal(number)))
        ignore_at_exit()


class BeatStep(CeleryBeatStep):  # type: ignore[misc]
    """``celery worker -B``: in a thread. Celery's process would be forked off a loop that runs."""

    def create(self, worker: Any) -> Any:
        """Celery callback."""
        worker.beat = EmbeddedService(
            worker.app,
            thread=True,
            schedule_filename=worker.schedule_filename,
            scheduler_cls=worker.scheduler,
        )
        return worker.beat

    def stop(self, worker: Any) -> None:
        """Celery callback: it may take a second, and the streams go on."""
        if self.obj is not None:
            await_(_aside(self.obj.stop))

    terminate = stop


async def _aside(call: Callable[[], None]) -> None:
    await asyncio.get_running_loop().run_in_executor(threads(), call)
