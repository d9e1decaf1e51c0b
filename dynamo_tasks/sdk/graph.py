"""A graph: an entry service and all that it depends on."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from dynamo_tasks.config import ResolvedConfig, ServiceSchema, suggest
from dynamo_tasks.errors import ConfigError, InvalidNameError
from dynamo_tasks.sdk.services.service import DynamoService
from dynamo_tasks.sdk.services.service_config import ServiceConfig

__all__ = ["Graph", "load_graph", "load_service"]


@dataclass(frozen=True)
class Graph:
    """Services linked by ``depends()``.

    Attributes:
        entry: The service that names the graph.
        services: All of them, each after those that it depends on; the entry is last.
    """

    entry: DynamoService[Any]
    services: tuple[DynamoService[Any], ...]

    @property
    def name(self) -> str:
        """The entry's name."""
        return self.entry.name

    def __iter__(self) -> Iterator[DynamoService[Any]]:
        return iter(self.services)

    def __getitem__(self, name: str) -> DynamoService[Any]:
        """The service of that name.

        Raises:
            ConfigError: there is none; names the nearest.
        """
        by_name = {service.name: service for service in self.services}
        if name not in by_name:
            raise ConfigError(f"no service {name!r} in graph {self.name}{suggest(name, by_name)}")
        return by_name[name]

    def components(self) -> tuple[DynamoService[Any], ...]:
        """Distributed components, dependencies first."""
        return tuple(service for service in self.services if service.is_dynamo_component())

    def in_process(self) -> tuple[DynamoService[Any], ...]:
        """Plain services, dependencies first."""
        return tuple(service for service in self.services if not service.is_dynamo_component())

    def schemas(self) -> dict[str, ServiceSchema]:
        """Return the schemas that :func:`dynamo_tasks.config.resolve` needs, by service."""
        return {service.name: service.schema() for service in self.services}

    def configure(self, resolved: ResolvedConfig) -> None:
        """Apply resolved settings to all services.

        Raises:
            InvalidNameError: a bad name, with the place where it was written.
            ConfigError: two components got the same address.
        """
        for service in self.services:
            try:
                service.configure(resolved[service.name])
            except InvalidNameError as exc:
                key = "name" if "component" in exc.message else "namespace"
                where = resolved.origins.get(f"{service.name}.dynamo.{key}", service.name)
                raise InvalidNameError(f"{where}: {service.name}: {exc.message}") from exc
            ServiceConfig.note(resolved, service.name, service.schema().extras)
        self._check_addresses()

    def _check_addresses(self) -> None:
        seen: dict[tuple[str, str], str] = {}
        for service in self.components():
            other = seen.setdefault(service.dynamo_address(), service.name)
            if other != service.name:
                address = ".".join(service.dynamo_address())
                raise ConfigError(f"services {other} and {service.name} are both the component {address}")


def load_graph(target: str | DynamoService[Any]) -> Graph:
    """Find the services of a graph.

    Args:
        target: The entry service, or where it stands: ``module:Class``, e.g. ``workers.agg:Frontend``.

    Raises:
        ConfigError: a missing module or attribute (names the nearest), a circle of dependencies (with its
            path), or two services of one name.
    """
    entry = load_service(target) if isinstance(target, str) else target
    if not isinstance(entry, DynamoService):
        raise ConfigError(f"a graph begins with a class under @service, not {entry!r}")
    linked = _uses_links(entry, set())
    found: dict[str, DynamoService[Any]] = {}
    _visit(entry, linked, (), found)
    graph = Graph(entry, tuple(found.values()))
    graph._check_addresses()
    return graph


def _edges(service: DynamoService[Any], linked: bool) -> list[DynamoService[Any]]:
    """The services next to it; where links are used, only those that were linked."""
    near = [dep.service for dep in service.dependencies.values() if dep.service is not None]
    return [other for other in near if not linked or other in service.links]


def _uses_links(service: DynamoService[Any], seen: set[int]) -> bool:
    if id(service) in seen:
        return False
    seen.add(id(service))
    return bool(service.links) or any(_uses_links(other, seen) for other in _edges(service, False))


def _visit(
    service: DynamoService[Any], linked: bool, path: tuple[Any, ...], found: dict[str, DynamoService[Any]]
) -> None:
    """Depth first, so that dependencies come before what needs them."""
    if service in path:
        names = [one.name for one in (*path[path.index(service) :], service)]
        raise ConfigError(f"services depend on each other in a circle: {' -> '.join(names)}")
    known = found.get(service.name)
    if known is not None:
        if known is not service:
            modules = f"{known.inner.__module__} and {service.inner.__module__}"
            raise ConfigError(
                f"two services of the graph are named {service.name!r} ({modules}); give one another name: "
                "@service(name=...)"
            )
        return
    for other in _edges(service, linked):
        _visit(other, linked, (*path, service), found)
    found[service.name] = service


def load_service(target: str) -> DynamoService[Any]:
    """Import ``module:Class``; the current directory counts, as for ``celery -A``.

    Raises:
        ConfigError: not of that form, no such module or attribute, or no service.
    """
    name, _, attribute = target.partition(":")
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{target!r} is no graph; expected module:Class, e.g. workers.agg:Frontend")
    module = _import(name)
    services = {key: value for key, value in vars(module).items() if isinstance(value, DynamoService)}
    if not attribute:
        raise ConfigError(f"{target!r} names no service; expected {name}:Class{suggest('', services)}")
    found = getattr(module, attribute, None)
    if found is None:
        raise ConfigError(f"module {name} has no service {attribute!r}{suggest(attribute, services)}")
    if not isinstance(found, DynamoService):
        raise ConfigError(
            f"{target} is {type(found).__name__}, no class under @service{suggest('', services)}"
        )
    return found


def _import(name: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        # a console script does not have it, `python -m` has
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        missing = exc.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise ConfigError(f"no module {name!r}{_near_modules(name)}") from exc
        raise ConfigError(f"module {name} needs {missing!r}, which is not installed") from exc


def _near_modules(name: str) -> str:
    """Suggest modules of the same package for a missing one; the top level is too wide."""
    parent, _, last = name.rpartition(".")
    package = sys.modules.get(parent)
    if package is None or not hasattr(package, "__path__"):
        return ""
    return suggest(last, [info.name for info in pkgutil.iter_modules(package.__path__)], label=f"in {parent}")
