"""Checks of `serve` and of its dry run, besides those of the graph and its settings: they start nothing.

What may be otherwise a moment later is not looked at here: ports that are in use, a Redis server that does not
answer, GPUs that other processes have.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from dynamo_tasks.config.host.given import check_variables, variable
from dynamo_tasks.config.host.home import Home
from dynamo_tasks.config.host.redis_lanes import completed_lanes
from dynamo_tasks.config.host.tls import complete_url
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.observe.tracing import EXPORTER_VARIABLE, exporter_problems
from dynamo_tasks.runtime.supervision.system import HOST_VARIABLE
from dynamo_tasks.serve.planning.gpus import GpuPins
from dynamo_tasks.serve.planning.ports import check_port
from dynamo_tasks.serve.processes.spec import ProcessPlan, ProcessSpec
from dynamo_tasks.store.lanes.lane import lane_addresses

__all__ = ["check_environment"]


def check_environment(
    plan: ProcessPlan, host: str, gpu_mode: str | None, environ: Mapping[str, str] | None = None
) -> list[str]:
    """Check what a plan needs of this machine and its environment.

    Args:
        plan: What would run.
        host: Address that HTTP is served on.
        gpu_mode: As the command line has it.
        environ: ``os.environ`` by default.

    Returns:
        What to warn of.

    Raises:
        ConfigError: the address is not this machine's, a variable is not as it must be, the URL of Redis, what it
            names or the state directory cannot be used, or more GPUs are asked for than there are.
    """
    environ = os.environ if environ is None else environ
    check_port(host, 0)
    for spec in plan.processes:
        _check_process(spec, {**environ, **spec.env})
    if url := variable("DYNAMO_REDIS_URL", environ):
        addresses = lane_addresses(completed_lanes(url, lambda one: complete_url(one, environ)))
        for address in addresses:
            if address.tls is not None:
                address.tls.context()
        _check_lanes(plan, len(addresses))
    home = Home.from_environ(environ)
    home.check()
    gpus = GpuPins(home, environ, gpu_mode).check(plan.processes)
    return [*([gpus] if gpus else []), *(f"{EXPORTER_VARIABLE}: {one}" for one in exporter_problems(environ))]


def _check_lanes(plan: ProcessPlan, lanes: int) -> None:
    """Refuse what several lanes cannot do."""
    for one in plan.deployments if lanes > 1 else ():
        if one.bounds is not None and one.bounds.automatic:
            raise ConfigError(
                f"{one.component}.ServiceArgs.scale: requests that wait are counted on one Redis server, and there are "
                f"{lanes} lanes; set workers, or name one server"
            )


def _check_process(spec: ProcessSpec, environ: Mapping[str, str]) -> None:
    for name, value in spec.env.items():
        if not name or "=" in name or "\0" in name + value:
            raise ConfigError(f"{spec.service}.ServiceArgs.envs: {name!r} cannot be a variable of a process")
    check_variables(environ)
    if spec.system_port is not None:
        check_port(environ.get(HOST_VARIABLE) or "127.0.0.1", 0, HOST_VARIABLE)
