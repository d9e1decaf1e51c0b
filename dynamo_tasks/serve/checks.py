"""What `serve` refuses besides the graph and its settings, and its dry run with it: nothing is started for it.

What may be otherwise a moment later is not looked at here: ports that are in use, a server that does not answer, GPUs
that other processes have.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from dynamo_tasks.config.given import variable
from dynamo_tasks.config.home import Home
from dynamo_tasks.config.tls import complete_url
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.serve.gpus import GpuPins
from dynamo_tasks.serve.ports import check_port
from dynamo_tasks.serve.spec import Plan
from dynamo_tasks.store.address import Address

__all__ = ["check_surroundings"]


def check_surroundings(
    plan: Plan, host: str, gpu_mode: str | None, environ: Mapping[str, str] | None = None
) -> str:
    """Check what a plan needs of this machine and its environment.

    Args:
        plan: What would run.
        host: Address that HTTP is served on.
        gpu_mode: As the command line has it.
        environ: ``os.environ`` by default.

    Returns:
        What to warn of; empty if all is well.

    Raises:
        ConfigError: the address is not this machine's, the URL of the server or the state directory cannot be used, or
            more GPUs are asked for than there are.
    """
    environ = os.environ if environ is None else environ
    check_port(host, 0)
    if url := variable("DYNAMO_REDIS_URL", environ):
        Address.parse(complete_url(url, environ))
    home = Home.from_environ(environ)
    if home.path.exists() and not home.path.is_dir():
        raise ConfigError(f"DYNAMO_HOME cannot be used: {home.path}: it is no directory")
    return GpuPins(home, environ, gpu_mode).check(plan.processes)
