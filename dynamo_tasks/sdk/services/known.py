"""The services that this process has declared, for an application that shall know their endpoints as tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from dynamo_tasks.sdk.services.service import DynamoService

__all__ = ["changes", "declared_services", "note"]

_services: WeakValueDictionary[int, DynamoService[Any]] = WeakValueDictionary()
_changes = 0


def note(service: DynamoService[Any]) -> None:
    """Note that a service was declared, or got other settings."""
    global _changes
    _changes += 1
    _services[id(service)] = service


def changes() -> int:
    """Count declarations and configurations: while the number stays the same, there is nothing new."""
    return _changes


def declared_services() -> list[DynamoService[Any]]:
    """All services of this process, in the order of their declaration."""
    return list(_services.values())
