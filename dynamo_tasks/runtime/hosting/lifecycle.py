"""States of an instance, from its making to its end.

::

    Created ─▶ Registered ─▶ Running ⇄ Healthy ─▶ Stopping ─▶ Deregistered
                              ▲ └───────┬───────────▲
                              └───── Asleep ────────┘

* Created: the process has a lease id and is connected; nothing of it is in Redis.
* Registered: its lease and its endpoints are in the registry.
* Running: it takes requests. It is not checked yet; or a check failed, and then it is out of the registry and
  takes none until the checks pass.
* Healthy: the last checks passed.
* Asleep: it was commanded to sleep; it takes no requests, and what ran ends or is requeued.
* Stopping: it was asked to end; it left the registry first, and finishes what runs.
* Deregistered: its lease is revoked.
"""

from __future__ import annotations

from enum import StrEnum

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.observe.log import event

__all__ = ["InstanceState", "Lifecycle"]


class InstanceState(StrEnum):
    """State of an instance."""

    CREATED = "Created"
    REGISTERED = "Registered"
    RUNNING = "Running"
    HEALTHY = "Healthy"
    ASLEEP = "Asleep"
    STOPPING = "Stopping"
    DEREGISTERED = "Deregistered"


_S = InstanceState
_EDGES = {
    _S.CREATED: {_S.REGISTERED, _S.STOPPING},
    _S.REGISTERED: {_S.RUNNING, _S.STOPPING},
    _S.RUNNING: {_S.HEALTHY, _S.ASLEEP, _S.STOPPING},
    _S.HEALTHY: {_S.RUNNING, _S.ASLEEP, _S.STOPPING},
    _S.ASLEEP: {_S.RUNNING, _S.STOPPING},
    _S.STOPPING: {_S.DEREGISTERED},
    _S.DEREGISTERED: set[InstanceState](),
}


class Lifecycle:
    """The state of one instance; every transition is logged as ``instance.state``.

    Attributes:
        component: Name of the component, or of several.
        state: Where it is.
    """

    def __init__(self, component: str, lease: int):
        self.component = component
        self._lease = lease
        self.state = InstanceState.CREATED

    def advance(self, new: InstanceState, reason: str = "") -> None:
        """Go to another state; to the one that it is in already: nothing happens.

        Raises:
            ConfigError: no such transition.
        """
        old = self.state
        if new is old:
            return
        if new not in _EDGES[old]:
            raise ConfigError(f"instance {self._lease:x} is {old}; it cannot become {new}")
        self.state = new
        event(
            "instance.state", component=self.component, instance_id=f"{self._lease:x}", old=old.value,
            new=new.value, reason=reason,
        )  # fmt: skip

    def report(self, name: str, reason: str) -> None:
        """Log an event of this instance."""
        event(name, component=self.component, instance_id=f"{self._lease:x}", reason=reason)
