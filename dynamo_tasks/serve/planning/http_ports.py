"""The services of a graph that serve HTTP, and their ports.

==========================================  ==================================================================
the entry, plain or with HTTP methods       ``--port``
a component with HTTP methods, not entry    ``ServiceArgs.http.port``; else each of its workers takes a free
                                            one, and says in its registration which
the same without endpoints                  ``ServiceArgs.http.port``, else a free one: it has no registration
a plain service that is not the entry       none: it lives inside of its callers
==========================================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynamo_tasks.config import ResolvedConfig
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.sdk import DynamoService
from dynamo_tasks.serve.planning.ports import free_port

__all__ = ["http_ports"]

Service = DynamoService[Any]


def http_ports(
    services: Sequence[Service], entry: Service, config: ResolvedConfig, host: str, port: int
) -> dict[str, int]:
    """Name of a service that serves HTTP → its port; 0 = each of its workers finds one.

    Args:
        services: Those that are started.
        entry: The entry of their graph.
        config: The settings.
        host: Address that HTTP is served on.
        port: The entry's.

    Raises:
        ConfigError: two of them have the same port.
    """
    found: dict[str, int] = {}
    for service in services:
        if service is entry:
            if service.apis or not (config[service.name].enabled and service.get_dynamo_endpoints()):
                found[service.name] = port
        elif service.apis and config[service.name].enabled:
            found[service.name] = _own_port(service, config, host)
    _check(found, entry)
    return found


def _own_port(service: Service, config: ResolvedConfig, host: str) -> int:
    configured = config[service.name].http_port
    if configured or service.get_dynamo_endpoints():
        return configured
    return free_port(host) or 0


def _check(ports: dict[str, int], entry: Service) -> None:
    taken: dict[int, str] = {}
    for name, port in ports.items():
        if port and port in taken:
            first, second = (taken[port], name) if name != entry.name else (name, taken[port])
            raise ConfigError(f"{second}.ServiceArgs.http.port: {port} is the port of {first}")
        taken[port] = name
