"""A system port of its own for each process of one ``serve``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from dynamo_tasks.config import ResolvedConfig
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.serve.processes.spec import ProcessSpec

__all__ = ["with_system_ports"]

_KEY = "ServiceArgs.system_port"


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
            raise ConfigError(f"{_KEY}: {taken[port]} and {name} would both get port {port}")
        if port is not None and port > 65535:
            raise ConfigError(f"{_KEY}: {name} would get port {port}; the highest is 65535")
    return [
        dataclasses.replace(
            spec, argv=(*spec.argv, "--set", f"{spec.service}.{_KEY}={port}"), system_port=port
        )
        if (port := ports[spec.name]) is not None
        else spec
        for spec in specs
    ]


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
