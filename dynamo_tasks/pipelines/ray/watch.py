"""Finds actors that hang: Ray sees a process that has died, and not one that lives and does nothing any more."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

from dynamo_tasks.errors import WorkerLostError
from dynamo_tasks.observe.log import event
from dynamo_tasks.pipelines.ray.cluster import ActorWrapper

__all__ = ["ActorWatch"]

_START = 60.0
"""Seconds until the first sign of life of a process that has just been started."""
_LOOKS = 5
"""How often it looks within the time-out."""


@dataclass
class _Sign:
    """A sign of life that an actor was asked for, and its deadline."""

    answer: Future[bool]
    until: float


class ActorWatch:
    """Asks actors for signs of life, and has those that give none killed and started again.

    An actor that is busy answers all the same: the user's code runs in threads of its own.

    Args:
        job_id: Of the actors' job.
        hang_timeout: Seconds that a process may be silent.
    """

    def __init__(self, job_id: str, hang_timeout: float):
        self._job_id = job_id
        self._timeout = hang_timeout
        self._signs: dict[ActorWrapper, _Sign] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, actor: ActorWrapper) -> None:
        """Watch an actor that was just started, until it is lost for good."""
        self._ask(actor, _START)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"{self._job_id}.watch")
            self._thread.start()

    def stop(self) -> None:
        """End; a second call does nothing."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._timeout / _LOOKS):
            for actor, sign in list(self._signs.items()):
                self._look(actor, sign)

    def _look(self, actor: ActorWrapper, sign: _Sign) -> None:
        if sign.answer.done():
            if isinstance(sign.answer.exception(), WorkerLostError):
                del self._signs[actor]
            else:
                self._ask(actor, self._timeout)
        elif time.monotonic() > sign.until:
            event("job.actor_hung", job=self._job_id, actor=actor.name, silent_s=self._timeout)
            actor.restart()
            self._ask(actor, _START)

    def _ask(self, actor: ActorWrapper, within: float) -> None:
        self._signs[actor] = _Sign(actor.call_async("alive"), time.monotonic() + within)
