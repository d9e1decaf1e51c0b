"""TCP ports of this machine, and which of them the processes of one ``serve`` take.

Each has a system port of its own. These services of a graph serve HTTP:

==========================================  ==================================================================
the entry, plain or with HTTP methods       ``--port``
a component with HTTP methods, not entry    ``ServiceArgs.http.port``; else each of its workers takes a free
                                            one, and says in its registration which
the same without endpoints                  ``ServiceArgs.http.port``, else a free one: it has no registration
a plain service that is not the entry       none: it lives inside of its callers
==========================================  ==================================================================
"""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dynamo_tasks.config import ResolvedConfig
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.sdk import DynamoService
from dynamo_tasks.serve.processes.spec import ProcessSpec

__all__ = ["check_port", "free_port", "http_ports", "share_address", "with_system_port", "with_system_ports"]


def free_port(host: str, port: int = 0) -> int | None:
    """Try to listen on a port, or on any free one.

    Args:
        host: Address of this machine, or a name of it.
        port: 0 = any.

    Returns:
        The port, or ``None`` when it is taken.

    Raises:
        OSError: ``host`` is no address of this machine, or the port is reserved.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return None
            raise
        found: int = probe.getsockname()[1]
        return found


def check_port(host: str, port: int, option: str = "--host") -> int:
    """The port to serve HTTP on.

    Args:
        host: Value of ``option``.
        port: ``--port``; 0 chooses a free one.
        option: Which one says the host.

    Raises:
        ConfigError: the port is taken, or this machine has no such address.
    """
    try:
        found = free_port(host, port)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{option} {host} --port {port}: {_reason(error)}") from error
    if found is None:
        raise ConfigError(
            f"port {port} on {host} is in use; choose another one with --port (0 = any free one)"
        )
    return found


def share_address(one: str, other: str) -> bool:
    """Return whether a port of the one host cannot be listened on at the other, too.

    Raises:
        ConfigError: one of them is no host.
    """
    first, second = _addresses(one), _addresses(other)
    return bool(first & second) or any(ipaddress.ip_address(name).is_unspecified for name in first | second)


def _addresses(host: str) -> set[str]:
    try:
        return {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, 0)}
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host {host}: {_reason(error)}") from error


def _reason(error: OSError | UnicodeError) -> str:
    return str(error) if isinstance(error, UnicodeError) else error.strerror or str(error)


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


_SYSTEM_PORT = "ServiceArgs.system_port"


def with_system_ports(
    specs: Sequence[ProcessSpec], config: ResolvedConfig, first: int | None, taken: Mapping[int, str]
) -> list[ProcessSpec]:
    """Tell each process its system port.

    A service's ``system_port`` is that of its first process, the next ones count on from there. All others count
    on from ``first``, in the order of their start. 0 is a free port for each.

    Args:
        specs: The processes.
        config: The settings.
        first: See above; ``None`` = none.
        taken: Ports that HTTP is served on at the same address, and by whom.

    Raises:
        ConfigError: two processes would get the same port, or one above 65535.
    """
    ports = dict(zip((spec.name for spec in specs), _ports(specs, config, first), strict=True))
    taken = dict(taken)
    for name, port in ports.items():
        if port and taken.setdefault(port, name) != name:
            raise ConfigError(f"{_SYSTEM_PORT}: {taken[port]} and {name} would both get port {port}")
        if port is not None and port > 65535:
            raise ConfigError(f"{_SYSTEM_PORT}: {name} would get port {port}; the highest is 65535")
    return [
        with_system_port(spec, port) if (port := ports[spec.name]) is not None else spec for spec in specs
    ]


def with_system_port(spec: ProcessSpec, port: int) -> ProcessSpec:
    """Tell a process its system port; 0 = any free one."""
    argv = (*spec.argv, "--set", f"{spec.service}.{_SYSTEM_PORT}={port}")
    return dataclasses.replace(spec, argv=argv, system_port=port)


def _ports(specs: Sequence[ProcessSpec], config: ResolvedConfig, first: int | None) -> Iterator[int | None]:
    following: dict[str, int] = {}
    for spec in specs:
        own = config[spec.service].system_port
        key, base = (spec.service, own) if own is not None else ("", first)
        if not base:
            yield base
            continue
        yield following.setdefault(key, base)
        following[key] += 1
