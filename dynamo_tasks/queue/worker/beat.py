"""Celery's beat, by itself and in a worker (``-B``)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

from celery.apps.beat import Beat as CeleryBeat
from celery.beat import EmbeddedService
from celery.worker.components import Beat as CeleryBeatStep

from dynamo_tasks.queue.greenlets import await_
from dynamo_tasks.queue.worker.foreign import threads
from dynamo_tasks.queue.worker.shutdown import ignore_at_exit, once

__all__ = ["Beat", "BeatStep"]


class Beat(CeleryBeat):  # type: ignore[misc]
    """``celery beat``: no signal interrupts the opening of the schedule, and none is lost."""

    def install_sync_handler(self, service: Any) -> None:
        """Celery callback: signals. The schedule is open by then; it is written once beat's loop is left.

        Celery's own handler closes it and raises SystemExit. Whatever is interrupted may swallow that (a destructor
        does), and beat would go on with a schedule that is closed.
        """
        scheduler = service.scheduler  # opens it
        ended, tick = service._is_shutdown, scheduler.tick

        def end(number: int, frame: Any) -> None:
            ended.set()
            raise SystemExit

        def tick_until_the_end() -> float | None:
            interval: float | None = tick()
            return 0.0 if ended.is_set() else interval  # no sleep, which nothing would interrupt

        scheduler.tick = tick_until_the_end
        handle = once()(end)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handle)
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
