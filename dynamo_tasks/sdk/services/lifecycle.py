"""States of a service in its process.

::

    Created ─▶ Configured ─▶ Linked ─▶ Initialized ─▶ Running ─▶ Stopping
    @service   configure()   link()    start hooks    registered  signal, or a failed start

A step may be left out (no configuration, no dependencies); none goes back, but a service that was stopped
may be started again in the same process.
"""

from __future__ import annotations

from enum import StrEnum

from dynamo_tasks.errors import ConfigError

__all__ = ["ServiceState", "check_step"]


class ServiceState(StrEnum):
    """State of a service."""

    CREATED = "Created"
    CONFIGURED = "Configured"
    LINKED = "Linked"
    INITIALIZED = "Initialized"
    RUNNING = "Running"
    STOPPING = "Stopping"


_ORDER = list(ServiceState)


def check_step(service: str, old: ServiceState, new: ServiceState) -> None:
    """Allow only steps forwards, and a new start after a stop.

    Raises:
        ConfigError: ``new`` lies before ``old``.
    """
    if old is ServiceState.STOPPING and new is not ServiceState.RUNNING:
        return
    if _ORDER.index(new) < _ORDER.index(old):
        raise ConfigError(f"service {service} is {old}; it cannot become {new}")
