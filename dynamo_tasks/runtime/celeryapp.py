"""The default Celery application: ``celery -A dynamo_tasks``.

A worker of it that nobody else has pinned pins itself to a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import click

from dynamo_tasks.config.host.given import filled, variable
from dynamo_tasks.config.host.gpus import ALLOCATION, MASK, PINNED, GpuClaims, allocation_mode, missing
from dynamo_tasks.config.host.home import Home
from dynamo_tasks.config.host.redis_server import key_prefix, resolve_redis_url
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.observe import event
from dynamo_tasks.queue.app import DynamoApp, create_app
from dynamo_tasks.runtime.eager import EagerServices
from dynamo_tasks.runtime.graphs import DEFAULT_GRAPH, configured_graph
from dynamo_tasks.runtime.hosting.service_host import ServiceHost
from dynamo_tasks.runtime.known_endpoints import Names
from dynamo_tasks.runtime.resolver import RuntimeResolver
from dynamo_tasks.sdk import Graph
from dynamo_tasks.wiring import api_server

__all__ = ["default_app", "default_resolver", "give_services", "make_host", "pin_process"]


def pin_process(service: str, gpus: float) -> None:
    """Choose GPUs that no other process of this host has, and show CUDA only those.

    Args:
        service: Who needs them.
        gpus: How many; below 1 a share of one; 0 leaves everything as it is.

    Raises:
        ConfigError: there are too few; or it is too late, since CUDA was started when a module was imported.
    """
    mode = allocation_mode(os.environ)
    if not gpus or mode == "off":
        return
    devices = GpuClaims(Home.from_environ()).claim({service: gpus})
    if not devices:
        event("config.warning", key=f"{service}.ServiceArgs.resources.gpu", problem=missing([service], mode))
        return
    if _cuda_runs():
        raise ConfigError(
            f"{service}: a module has started CUDA while it was imported, so that its GPUs cannot be chosen "
            f"any more; do that in a start hook, or set {MASK} and {ALLOCATION}=off"
        )
    # Children of an engine inherit it, and don't choose again.
    os.environ[MASK] = os.environ[PINNED] = devices[service]
    os.environ[ALLOCATION] = "off"


def _cuda_runs() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


SCHEDULE = "beat.schedule"
OPERATORS = "dynamo_tasks.pipelines.celery.worker:Operators"


def make_host(
    app: DynamoApp,
    *,
    service: str | None = None,
    config: str | None = None,
    settings: list[str] | None = None,
    operators: str | None = None,
) -> ServiceHost:
    """The host of a worker process.

    Args:
        app: The application.
        service: ``module:Class``; by default the one component of ``DYNAMO_GRAPH``, or of the default graph.
        config: YAML file; ``DYNAMO_CONFIG`` by default.
        settings: ``Service.key=value`` each.
        operators: Hosts the component of pipelines, and names the modules that its jobs may run, with commas between.

    Raises:
        ConfigError: no such service, or it has no endpoints; or settings that are not valid.
    """
    service, config = filled("--service", service), filled("--config", config) or variable("DYNAMO_CONFIG")
    if operators is not None:
        service, settings = service or OPERATORS, [*(settings or []), _modules(operators)]
    target = service or variable("DYNAMO_GRAPH") or DEFAULT_GRAPH
    graph = configured_graph(target, config=config, settings=settings or [])
    if operators is not None and graph.entry.name != "Operators":
        raise ConfigError(f"--operators is for the component Operators, and {target} is {graph.entry.name}")
    if service is None:
        graph = _only_component(graph)
    pin_process(graph.entry.name, graph.entry.settings.resources.get("gpu", 0))
    wait = int(os.environ.get("DYNAMO_RESTARTS") or 0) > 0
    host = ServiceHost(app, graph, wait=wait)
    if not host.is_component:
        raise ConfigError(f"{graph.name} is no component with endpoints: a worker has nothing to serve")
    if address := os.environ.get("DYNAMO_HTTP"):
        host.http = _http_server(host, address)
    return host


def _modules(operators: str) -> str:
    """The setting that ``--operators`` stands for."""
    names = [name for one in operators.split(",") if (name := one.strip())]
    if not names:
        raise ConfigError("--operators names no module")
    return f"Operators.modules={json.dumps(names)}"


def _http_server(host: ServiceHost, address: str) -> Any:
    name, _, port = address.rpartition(":")
    return api_server(host, name, int(port), reuse_port=host.service.settings.workers > 1)


def _only_component(graph: Graph) -> Graph:
    found = [service for service in graph.components() if service.get_dynamo_endpoints()]
    found = [service for service in found if not service.is_beside] or found
    if len(found) == 1:
        return Graph(found[0], graph.services)
    names = ", ".join(service.name for service in found) or "none"
    raise ConfigError(
        f"graph {graph.name} has several components ({names}); say which: --service MODULE:Class"
    )


def give_services(app: DynamoApp, *, graph: bool) -> None:
    """Give an application the services of the process: as tasks by their names, and for eager calls.

    Args:
        app: Ours, or one that :func:`dynamo_tasks.install` makes one of ours.
        graph: Whether the process is configured with a graph.
    """
    app.eager_handler = app.eager_handler or EagerServices().handler
    app.learn = Names(graph=graph)


@cache
def default_app() -> DynamoApp:
    """The application; loads ``beat.schedule`` where it can be imported."""
    app = create_app(server_url=resolve_redis_url, make_host=make_host, key_prefix=key_prefix())
    give_services(app, graph=True)
    app.set_default()
    _load_schedule(app)
    return app


def _load_schedule(app: DynamoApp) -> None:
    with _here_first() as here:
        found = _find_schedule(here)
        if found is None or found.loader is None:
            return
        module: Any = sys.modules.get(SCHEDULE)
        if module is None or getattr(module, "__file__", None) != found.origin:
            module = sys.modules[SCHEDULE] = importlib.util.module_from_spec(found)
            found.loader.exec_module(module)
    if hasattr(module, "install"):
        module.install(app)
    else:
        app.conf.beat_schedule = {**(app.conf.beat_schedule or {}), **module.SCHEDULE}


@contextmanager
def _here_first() -> Iterator[Path | None]:
    """The working directory, importable: Celery's command finds ``-A`` there, too, and then takes it off the path."""
    context = click.get_current_context(silent=True)
    if context is None or context.find_root().command.name != "celery":
        yield None
        return
    here = os.getcwd()
    before = sys.path[:]
    sys.path.insert(0, here)
    try:
        yield Path(here)
    finally:
        sys.path[:] = before


def _find_schedule(here: Path | None) -> ModuleSpec | None:
    file = here.joinpath(*SCHEDULE.split(".")).with_suffix(".py") if here else None
    if file is not None and file.is_file():
        return importlib.util.spec_from_file_location(SCHEDULE, file)
    try:
        return importlib.util.find_spec(SCHEDULE)
    except ModuleNotFoundError:
        return None


@cache
def default_resolver() -> RuntimeResolver:
    """The resolver of a plain script."""
    return RuntimeResolver(default_app())
