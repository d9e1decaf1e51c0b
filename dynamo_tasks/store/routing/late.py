"""Queues for late binding, as workers take from them: look at those at the head, then take one."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from dynamo_tasks.router.late import WINDOW, Marks, Waiting
from dynamo_tasks.store.keys import Keys
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.redis.server import Store

__all__ = ["LateQueue", "Taken", "Window"]


class Window(NamedTuple):
    """Those at the head of a queue.

    Attributes:
        ids: Of the requests.
        requests: What a worker must know of them.
        longest: Requests that the queue had at most, since it was empty.
    """

    ids: list[str]
    requests: list[Waiting]
    longest: int


class Taken(NamedTuple):
    """A request that was taken.

    Attributes:
        message: The Celery message.
        waited: Seconds in the queue.
    """

    message: bytes
    waited: float


class LateQueue:
    """The queues for late binding of one component; each list of a priority is one.

    Args:
        store: Redis.
        keys: Of the namespace.
        component: Its name.
    """

    def __init__(self, store: Store, keys: Keys, component: str):
        self._commands = store.commands
        self._keys = keys
        self._component = component

    async def look(self, key: str) -> Window:
        """The requests at the head; none where nobody waits, or the component runs as many as it may.

        Args:
            key: Of the list.

        Raises:
            ServerUnavailableError: Redis cannot be reached.
        """
        longest, *rows = await script("late_look").run(self._commands, [key], **self._of(key), count=WINDOW)
        requests = [
            Waiting(float(turn), int(passed), Marks.decode(marks), tenant.decode())
            for _, turn, passed, tenant, marks in rows
        ]
        return Window([row[0].decode() for row in rows], requests, int(longest))

    async def take(self, key: str, request_id: str, before: list[str], why: dict[str, Any]) -> Taken | None:
        """Take a request; ``None``: somebody else was faster. Others are woken for the rest.

        Args:
            key: Of the list.
            request_id: The request.
            before: Those of its tenant before it, in their order.
            why: Says why this worker took it, to those who ask.

        Raises:
            ServerUnavailableError: Redis cannot be reached; if it was taken, the search for lost messages finds it.
        """
        reply = await script("late_take").run(
            self._commands, [key], *before, **self._of(key), id=request_id, why=msgspec.json.encode(why)
        )
        return Taken(bytes(reply[0]), int(reply[1]) / 1000) if reply else None

    async def ring(self, key: str) -> None:
        """Wake another worker: this one has no room.

        Raises:
            ServerUnavailableError: Redis cannot be reached.
        """
        await script("late_take").run(self._commands, [key], **self._of(key), id="", why="")

    def _of(self, key: str) -> dict[str, str]:
        return {"base": self._keys.base, "component": self._component, "list": key}
