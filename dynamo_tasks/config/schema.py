"""The schema of a service's configuration, and its resolved settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["COMMON", "FIXED", "RESERVED", "SHORT", "DefaultName", "ServiceSchema", "ServiceSettings"]

COMMON = "Common"
"""The section whose keys any service may take, by listing them under ``common-configs``."""

COMMON_CONFIGS = "common_configs"

RESERVED = ("dynamo", "ServiceArgs", COMMON_CONFIGS)
"""Keys of a section that are no attributes of the class."""

FIXED: dict[tuple[str, ...], tuple[str, ...]] = {
    ("dynamo",): ("namespace", "name", "enabled"),
    ("ServiceArgs",): (
        "workers",
        "resources",
        "envs",
        "concurrency",
        "traffic",
        "http",
        "system_port",
        "scale",
        "planner",
    ),
    ("ServiceArgs", "resources"): ("gpu", "gpu_type", "cpu", "memory"),
    ("ServiceArgs", "http"): ("port",),
    ("ServiceArgs", "scale"): ("min", "max", "idle", "start", "share", "turn", "sleep"),
    ("ServiceArgs", "traffic"): (
        "timeout",
        "concurrency",
        "max_queue",
        "max_stream_bytes",
        "max_concurrency",
        "external_queue",
    ),
}
"""Mappings with a closed set of keys."""

SHORT = {"scale": ("ServiceArgs", "scale"), "planner": ("ServiceArgs", "planner")}
"""Keys of a section that stand for longer ones, unless the class has an attribute of that name."""


class DefaultName(str):
    """A namespace that ``@service`` gives for want of a better one: ``DYNAMO_NAMESPACE`` goes before it."""

    __slots__ = ()


@dataclass(frozen=True)
class ServiceSchema:
    """The configuration that a service declares.

    Attributes:
        name: The service's name, which is its section in a file.
        attributes: Configurable class attributes and their defaults.
        annotations: Their resolved types; also of attributes that have no default.
        extras: The ``dict`` attribute that takes all other keys (``config_extras`` of the class).
        arguments: What ``@service(...)`` was given, in the shape of a section:
            ``{"dynamo": {…}, "ServiceArgs": {…}}``. With a ``dynamo`` key the service is a component.
        is_open: Whether other keys become attributes, unless they look like a slip of one that is known.
        taken: Names of the class that are no settings: methods, endpoints, dependencies.
    """

    name: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    annotations: Mapping[str, Any] = field(default_factory=dict)
    extras: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    is_open: bool = False
    taken: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes that can be set."""
        return tuple(dict.fromkeys([*self.attributes, *self.annotations]))

    @property
    def is_component(self) -> bool:
        """``True`` if ``@service`` was given ``dynamo=`` (and ``enabled`` is not false there)."""
        dynamo = self.arguments.get("dynamo")
        return dynamo is not None and bool(dynamo.get("enabled", True))


@dataclass(frozen=True)
class ServiceSettings:
    """The resolved settings of one service.

    Attributes:
        name: The service's name.
        namespace: ``default`` where nothing names one.
        component: Name of the component; the service's name where nothing names one.
        enabled: Whether it is a distributed component, or a plain in-process service.
        workers: Processes to start, ≥ 1.
        resources: ``gpu`` (per worker; a number, below 1 a share of one), ``gpu_type``, ``cpu``, ``memory``,
            as far as given.
        envs: Environment variables of its processes.
        concurrency: Slots per process; ``None`` = what the engine says.
        traffic: ``timeout`` (seconds), ``concurrency`` and ``max_queue`` of the component as a whole,
            ``max_stream_bytes`` (what the stream of one request may hold), as far as given;
            ``max_concurrency`` and ``external_queue`` are for BentoML.
        scale: ``min``, ``max`` (instances), ``idle``, ``start`` (seconds), ``share`` (a name), ``turn`` (seconds) and
            ``sleep`` (a level), as far as given.
        planner: Of the policy that says how many instances are wanted; ``None`` = there is none.
        system_port: Where each process serves its metrics and probes; 0 = any free port, ``None`` = not set here.
        http_port: Where a component that is not the graph's entry serves its HTTP methods; 0 = any free port.
        attributes: Class attribute → value; attributes without default or value are left out.
    """

    name: str
    namespace: str = "default"
    component: str = ""
    enabled: bool = False
    workers: int = 1
    resources: dict[str, Any] = field(default_factory=dict)
    envs: dict[str, str] = field(default_factory=dict)
    concurrency: int | None = None
    traffic: dict[str, Any] = field(default_factory=dict)
    scale: dict[str, Any] = field(default_factory=dict)
    planner: dict[str, Any] | None = None
    system_port: int | None = None
    http_port: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def needed(self) -> int:
        """Instances that there must be at all times."""
        return int(self.scale.get("min", 1)) if self.scale or self.planner is not None else self.workers

    def section(self) -> dict[str, Any]:
        """The settings in the shape of a section of a file."""
        args: dict[str, Any] = {"workers": self.workers, "concurrency": self.concurrency}
        args |= {"resources": self.resources, "envs": self.envs, "traffic": self.traffic}
        args |= {"scale": self.scale} if self.scale else {}
        args |= {"planner": self.planner} if self.planner is not None else {}
        args |= {"system_port": self.system_port} if self.system_port is not None else {}
        args |= {"http": {"port": self.http_port}} if self.http_port else {}
        dynamo = {"namespace": self.namespace, "name": self.component, "enabled": self.enabled}
        return {"dynamo": dynamo, "ServiceArgs": args, **self.attributes}
