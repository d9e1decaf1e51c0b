"""Configured services, made from a graph's name, a file and settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dynamo_tasks.config import SECRET_SETTINGS, Layer, env_layer, flags_layer, load_yaml, resolve
from dynamo_tasks.config.host.given import check_variables, variable
from dynamo_tasks.sdk import DynamoService, Graph, ServiceConfig, ServiceState, load_graph

__all__ = ["DEFAULT_GRAPH", "configure_alone", "configured_graph"]

DEFAULT_GRAPH = "dynamo_tasks.services.agg:Frontend"


def configured_graph(
    target: str,
    *,
    config: str | None = None,
    settings: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Graph:
    """Load a graph and apply its settings.

    Args:
        target: ``module:Class`` of the entry service, or of the one service to host.
        config: YAML file; services of it that the graph does not have are left alone.
        settings: ``Service.key=value`` each.
        environ: ``os.environ`` by default.

    Raises:
        ConfigError: no such graph, or settings that are not valid.
    """
    check_variables(environ)
    graph = load_graph(target)
    layers = [
        flags_layer([*settings, *_secret_settings(os.environ if environ is None else environ)]),
        *_shared_layers(config, os.environ if environ is None else environ),
    ]
    graph.configure(resolve(graph.schemas(), layers, allow_unknown_services=True))
    ServiceConfig.note_others(layers, graph.schemas())
    return graph


def _secret_settings(environ: Mapping[str, str]) -> list[str]:
    """Settings of the command line of ``serve`` that no process list should show."""
    return msgspec.json.decode(environ.get(SECRET_SETTINGS) or "[]", type=list[str])


def configure_alone(service: DynamoService[Any], environ: Mapping[str, str] | None = None) -> None:
    """Apply environment and ``DYNAMO_CONFIG`` to a service that no graph has configured: a plain script's.

    Raises:
        ConfigError: settings that are not valid.
    """
    if service.state is not ServiceState.CREATED:
        return
    environ = os.environ if environ is None else environ
    layers = _shared_layers(variable("DYNAMO_CONFIG", environ), environ)
    resolved = resolve({service.name: service.schema()}, layers, allow_unknown_services=True)
    service.configure(resolved[service.name])
    ServiceConfig.note_alone(resolved, service.name, service.schema().extras)


def _shared_layers(config: str | None, environ: Mapping[str, str]) -> list[Layer]:
    """The layers of settings that every process of a deployment gets, highest first."""
    return [*([load_yaml(Path(config))] if config else []), env_layer(environ)]
