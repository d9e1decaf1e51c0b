"""The ``dynamo=`` argument of ``@service``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import ConfigError

__all__ = ["DynamoConfig", "as_dynamo_config"]


@dataclass
class DynamoConfig:
    """The distributed side of a service.

    Attributes:
        namespace: ``default`` where ``None``.
        name: The component's name; the service's where ``None``.
        enabled: Whether it is a component; else a plain in-process service that is never registered. It may also be
            given first, as Dynamo's SDK has it: ``DynamoConfig(True, "production", "worker")``.
    """

    namespace: str | None = None
    name: str | None = None
    enabled: bool = False

    def __post_init__(self) -> None:
        given: tuple[Any, Any, Any] = (self.namespace, self.name, self.enabled)
        if isinstance(given[0], bool):
            self.enabled, self.namespace, self.name = given[0], given[1], given[2] or None


def as_dynamo_config(dynamo: Any) -> DynamoConfig | None:
    """Read what ``@service`` was given; a mapping enables the component unless it says otherwise.

    Raises:
        ConfigError: neither a mapping nor a :class:`DynamoConfig`, or an unknown key.
    """
    if dynamo is None or isinstance(dynamo, DynamoConfig):
        return dynamo
    if not isinstance(dynamo, Mapping):
        raise ConfigError(
            f"@service(dynamo=...) must be a mapping of enabled, namespace, name, not {dynamo!r}"
        )
    known = [f.name for f in fields(DynamoConfig)]
    for key in dynamo:
        if key not in known:
            raise ConfigError(f"@service(dynamo=...) has no key {key!r}{suggest(str(key), known)}")
    return DynamoConfig(**{"enabled": True, **dynamo})
