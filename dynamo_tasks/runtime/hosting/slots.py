"""Slots: the requests that a service takes at a time, one process of it and the component as a whole."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.sdk import DynamoService

__all__ = ["limits_of", "slots_of"]

_DEFAULT = 256


def limits_of(service: DynamoService[Any]) -> dict[str, int | None]:
    """The limits of the component as a whole; BentoML's name of the first one is ``max_concurrency``."""
    given = service.settings.traffic
    concurrency = given.get("concurrency") or given.get("max_concurrency")
    seconds = given.get("timeout")
    return {
        "concurrency": concurrency,
        "max_queue": given.get("max_queue") or None,
        "timeout": round(seconds * 1000) if seconds else None,
    }


def slots_of(service: DynamoService[Any]) -> int:
    """Requests that one process of it takes at a time: as configured, else what it says of itself, else 256.

    Raises:
        ConfigError: it says less than one.
    """
    configured = service.settings.concurrency
    if configured:
        return int(configured)
    own = getattr(service.inner, "slots", None)
    slots = own() if callable(own) else _DEFAULT
    if slots < 1:
        raise ConfigError(f"{service.name}: slots must be at least 1, not {slots}")
    return int(slots)
