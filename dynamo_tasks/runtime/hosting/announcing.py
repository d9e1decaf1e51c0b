"""Registrations follow the queues: an instance is to be called by name only while it listens to that."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.runtime.hosting.instance import Instance

__all__ = ["Announcements"]


class Announcements:
    """The announced endpoints of a process, and those that wait until their queue is consumed."""

    def __init__(self) -> None:
        self._silent: dict[str, tuple[Instance, InstanceInfo]] = {}

    def heard(
        self, instance: Instance, infos: Iterable[InstanceInfo], queues: Collection[str] | None
    ) -> list[InstanceInfo]:
        """Choose the endpoints that an instance may announce as it starts.

        Args:
            instance: It.
            infos: All of its endpoints.
            queues: What it consumes; all of its own for ``None``.
        """
        announced = []
        for info in infos:
            if queues is None or info.transport["celery"] in queues:
                announced.append(info)
            else:
                self._silent[info.transport["celery"]] = (instance, info)
        return announced

    async def follow(self, instances: Iterable[Instance], queue: str, *, consumed: bool) -> None:
        """Follow a queue that is consumed from now on, or no more."""
        if consumed:
            instance, info = self._silent.pop(queue, (None, None))
            if instance is not None and info is not None:
                await instance.add(info)
            return
        for instance in instances:
            for info in [one for one in instance.infos if _own_queue(one) == queue]:
                self._silent[queue] = (instance, info)
                await instance.remove(info)


def _own_queue(info: InstanceInfo) -> str | None:
    """The queue that this instance alone consumes; not all have one."""
    queue = info.transport["celery"]
    return queue if queue != info.id.queue else None
