"""From a graph's name, a file and settings to configured services."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dynamo_tasks.config import Layer, env_layer, flags_layer, load_yaml, resolve
from dynamo_tasks.sdk import Graph, load_graph

__all__ = ["DEFAULT_GRAPH", "configured_graph"]

DEFAULT_GRAPH = "dynamo_tasks.services.agg:Frontend"


def configured_graph(
    target: str, *, config: str | None = None, settings: Sequence[str] = (), environ: Mapping[str, str] | None = None
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
    graph = load_graph(target)
    layers: list[Layer] = [flags_layer(list(settings))]
    if config:
        layers.append(load_yaml(Path(config)))
    layers.append(env_layer(os.environ if environ is None else environ))
    graph.configure(resolve(graph.schemas(), layers, allow_unknown_services=True))
    return graph
