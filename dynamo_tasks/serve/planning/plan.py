"""The processes that serve a graph, by its settings.

- A component that is enabled and has endpoints: ``workers`` Celery workers.
- The entry service, if it is not such a component, and a component that has HTTP methods alone: ``workers``
  processes that serve HTTP on one port.
- A component that has both: its workers serve HTTP, too (ports: :mod:`dynamo_tasks.serve.planning.ports`).
- A service without ``dynamo=`` lives inside the processes of those that depend on it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from dynamo_tasks.config import (
    SECRET_SETTINGS,
    Layer,
    ResolvedConfig,
    env_layer,
    flags_layer,
    load_yaml,
    mask,
    resolve,
)
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.queue import worker
from dynamo_tasks.runtime.supervision.system import HOST_VARIABLE
from dynamo_tasks.sdk import DynamoService, Graph, load_graph
from dynamo_tasks.sdk.services.own_class import import_path
from dynamo_tasks.serve import host
from dynamo_tasks.serve.planning.deployments import deployment
from dynamo_tasks.serve.planning.ports import http_ports, share_address, with_system_port, with_system_ports
from dynamo_tasks.serve.processes.spec import ProcessPlan, ProcessSpec
from dynamo_tasks.services.http import http_settings, serves_http

__all__ = ["PlanOptions", "ProcessPlan", "default_graph", "make_plan"]

Service = DynamoService[Any]

_DEFAULT = "class attribute"
_DEFAULT_GRAPHS = ("workers.agg:Frontend", "dynamo_tasks.services.agg:Frontend")


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """The options of the command line of ``serve`` about the graph.

    Attributes:
        graph: ``module:Class`` of the entry service.
        config: YAML file.
        flags: ``--Service.key=value`` each.
        model: Short for ``--Worker.model=…``, for every service of the graph that has a ``model``.
        services: Only these; empty = all.
        host: Address that HTTP is served on.
        port: Its port, already chosen (not 0).
        loglevel: Of the workers and the HTTP process.
        system_port: Where processes serve metrics and probes: the first one's port, 0 = any; ``None`` = they don't.
        node_suffix: Makes Celery node names unique where several ``serve`` share a Redis server.
    """

    graph: str
    config: Path | None = None
    flags: tuple[str, ...] = ()
    model: str | None = None
    services: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    loglevel: str = "warning"
    system_port: int | None = None
    node_suffix: str = ""


def default_graph() -> str:
    """``workers.agg:Frontend`` if it can be imported, else the same graph of the library."""
    project, library = _DEFAULT_GRAPHS
    try:
        found = importlib.util.find_spec(project.partition(":")[0])
    except ModuleNotFoundError:
        found = None
    return library if found is None else project


def make_plan(options: PlanOptions, environ: Mapping[str, str] | None = None) -> ProcessPlan:
    """Load the graph, resolve its settings and lay out its processes. Nothing is started.

    Args:
        options: See :class:`PlanOptions`.
        environ: ``os.environ`` by default.

    Raises:
        ConfigError: no such graph or service, or settings that are not valid.
    """
    graph = load_graph(options.graph)
    flags = [*_model_flags(graph, options.model), *options.flags]
    environ = os.environ if environ is None else environ
    config = _resolve(graph, options, flags, environ)
    _check_http_settings(config)
    graph.configure(config)
    chosen = _chosen(graph, options.services)
    components = [service for service in chosen if _is_worker(service, config)]
    # Dependencies come first in a graph, so that a component is up before those who call it.
    ports = http_ports(chosen, graph.entry, config, options.host, options.port)
    for service in chosen:
        _check(service, options.host if service.name in ports else None)
    makers = {
        service.name: partial(_worker, service, config, options, flags, ports.get(service.name))
        for service in components
    }
    specs = [make(index) for name, make in makers.items() for index in range(config[name].workers)]
    for service in chosen:
        if service.name in ports and service not in components:
            specs += _hosts(service, config, options, flags, ports[service.name])
    # What requests are served without comes last, and takes no port from what was there before it.
    specs.sort(key=lambda spec: graph[spec.service].is_beside)
    if not specs:
        names = ", ".join(service.name for service in chosen)
        raise ConfigError(f"nothing to start: {names} has no process of its own (it lives in its callers')")
    specs = with_system_ports(specs, config, options.system_port, _http(specs, options.host, environ))
    return ProcessPlan(
        processes=tuple(specs),
        config=config,
        http=graph.entry.name if graph.entry.name in ports else None,
        components=_expected(components, config),
        graph=options.graph,
        deployments=tuple(
            deployment(service, config[service.name], _numbered(specs, makers[service.name], config, options))
            for service in components
        ),
    )


def _numbered(
    specs: Sequence[ProcessSpec],
    make: Callable[[int], ProcessSpec],
    config: ResolvedConfig,
    options: PlanOptions,
) -> Callable[[int], ProcessSpec]:
    """The n-th process of a service; one that was not planned serves its metrics on any free port."""
    planned = {spec.name: spec for spec in specs}

    def spec(index: int) -> ProcessSpec:
        made = make(index)
        known = planned.get(made.name)
        if known is not None:
            return known
        first = config[made.service].system_port
        wants = options.system_port if first is None else first
        return made if wants is None else with_system_port(made, 0)

    return spec


def _check_http_settings(config: ResolvedConfig) -> None:
    """Refuse API keys and names that are given and empty: serving everybody then would be a surprise."""
    for name, section in config.tree().items():
        for key, what in (("api_keys", "key"), ("allowed_hosts", "name")):
            where = config.origins.get(f"{name}.{key}", _DEFAULT)
            if where != _DEFAULT and not section.get(key):
                raise ConfigError(
                    f"{name}.{key} is given but holds no {what}; give one or more, or leave it away"
                )


def _check(service: Service, host: str | None) -> None:
    # A class may know more of its settings than the schema says, e.g. what its engine takes.
    check = getattr(service.inner, "check_settings", None)
    if check is not None:
        check()
    if host is not None and not serves_http(service.inner):
        http_settings(service.inner, host)


def _http(specs: Sequence[ProcessSpec], host: str, environ: Mapping[str, str]) -> dict[int, str]:
    """Ports of HTTP at the address of system ports."""
    served = {spec.port: f"{spec.service} (HTTP)" for spec in specs if spec.port}
    return served if served and share_address(host, environ.get(HOST_VARIABLE) or "127.0.0.1") else {}


def _expected(components: Sequence[Service], config: ResolvedConfig) -> dict[str, int]:
    settings = [config[service.name] for service in components]
    return {f"{item.namespace}.{item.component}": item.workers for item in settings}


def _resolve(
    graph: Graph, options: PlanOptions, flags: Sequence[str], environ: Mapping[str, str]
) -> ResolvedConfig:
    layers: list[Layer] = [flags_layer(flags)]
    if options.config is not None:
        layers.append(load_yaml(options.config))
    layers.append(env_layer(environ))
    return resolve(graph.schemas(), layers)


def _model_flags(graph: Graph, model: str | None) -> list[str]:
    if model is None:
        return []
    takers = [service.name for service in graph.components() if "model" in service.schema().names]
    if not takers:
        raise ConfigError("--model: no component of this graph has a `model`")
    return [f"--{name}.model={model}" for name in takers]


def _chosen(graph: Graph, names: Sequence[str]) -> list[Service]:
    picked = [graph[name].name for name in names]
    return [service for service in graph.services if not names or service.name in picked]


def _is_worker(service: Service, config: ResolvedConfig) -> bool:
    return config[service.name].enabled and bool(service.get_dynamo_endpoints())


def _worker(
    service: Service,
    config: ResolvedConfig,
    options: PlanOptions,
    flags: Sequence[str],
    port: int | None,
    index: int,
) -> ProcessSpec:
    settings = config[service.name]
    head = (sys.executable, "-m", worker.__name__, "-A", "dynamo_tasks", "--quiet", "worker")
    http = {} if port is None else {"DYNAMO_HTTP": f"{options.host}:{port}"}
    share = settings.scale.get("share", "")
    return ProcessSpec(
        name=f"{service.name}-{index}",
        service=service.name,
        argv=(
            *head,
            *_service_arguments(service, options, flags),
            *("-n", f"{service.name}-{index}{options.node_suffix}@%h"),
            *("--loglevel", options.loglevel, "--without-gossip", "--without-mingle"),
        ),
        env={**settings.envs, **http, **_secrets(flags)},
        gpus=settings.resources.get("gpu", 0),
        port=port,
        elastic=bool(settings.scale),
        turn=(f"{settings.namespace}/{share}", settings.component) if share else None,
    )


def _hosts(
    service: Service, config: ResolvedConfig, options: PlanOptions, flags: Sequence[str], port: int
) -> list[ProcessSpec]:
    settings = config[service.name]
    names, shared = [service.name], []
    if settings.workers > 1:
        # The kernel spreads connections over all that listen on the port.
        names, shared = [f"{service.name}-{index}" for index in range(settings.workers)], ["--reuse-port"]
    return [
        ProcessSpec(
            name=name,
            service=service.name,
            argv=(
                *(sys.executable, "-m", host.__name__),
                *_service_arguments(service, options, flags),
                *("--host", options.host, "--port", str(port), *shared, "--loglevel", options.loglevel),
            ),
            env={**settings.envs, **_secrets(flags)},
            gpus=settings.resources.get("gpu", 0),
            port=port,
            registers=False,
        )
        for name in names
    ]


def _service_arguments(service: Service, options: PlanOptions, flags: Sequence[str]) -> list[str]:
    arguments = ["--service", _reference(service, options.graph)]
    if options.config is not None:
        arguments += ["--config", str(options.config.absolute())]
    for setting in _settings(flags):
        if not _is_secret(setting):
            arguments += ["--set", setting]
    return arguments


def _is_secret(setting: str) -> bool:
    key, _, value = setting.partition("=")
    return bool(mask(key, value) != value)


def _secrets(flags: Sequence[str]) -> dict[str, str]:
    """Settings with secrets travel in the environment: everybody on the machine can read command lines."""
    found = [setting for setting in _settings(flags) if _is_secret(setting)]
    return {SECRET_SETTINGS: msgspec.json.encode(found).decode()} if found else {}


def _settings(flags: Sequence[str]) -> list[str]:
    """``--Service.key=value`` and ``--Service.key value`` as ``Service.key=value``."""
    rest = iter(flags)
    return [
        flag.removeprefix("--") if "=" in flag else f"{flag.removeprefix('--')}={next(rest, '')}"
        for flag in rest
    ]


def _reference(service: Service, graph: str) -> str:
    """``module:Class``, in the graph's own module where it has a name: only there are links made."""
    path = import_path(service, graph.partition(":")[0])
    if path is None:
        raise ConfigError(f"service {service.name} cannot be started: no module has it as a name of its own")
    return ":".join(path)
