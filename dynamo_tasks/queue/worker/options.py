"""Options of Celery's worker that cannot do here what they are given for: refused, not dropped. The whole table is in
docs/celery.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from dynamo_tasks.errors import ConfigError

__all__ = ["check_options", "check_settings"]

_NO_CHILDREN = "there are no child processes here that could be replaced: one process runs all requests"
_REFUSED = {
    "max_tasks_per_child": f"{_NO_CHILDREN}; let the supervisor of the worker start it anew",
    "max_memory_per_child": f"{_NO_CHILDREN}; let the service manager limit the process (MemoryMax=, resources.limits)",
    "pool_start_method": "there are no child processes here that could be started one way or the other",
    "pool": "the asyncio pool runs endpoints on the event loop, and plain tasks in threads; leave -P away",
}
_SETTINGS = ("max_tasks_per_child", "max_memory_per_child")


def check_options(given: Mapping[str, Any]) -> None:
    """Refuse what was asked for on the command line, or by who makes a worker.

    Raises:
        ConfigError: names the option, and what to do.
    """
    typed = _typed()
    for name, why in _REFUSED.items():
        if name in typed or (name != "pool" and given.get(name) is not None):
            raise ConfigError(f"--{name.replace('_', '-')} is not for this worker: {why}")


def check_settings(conf: Any) -> None:
    """Refuse settings of an application of ours; those of one that is installed into are meant for its own workers.

    Raises:
        ConfigError: names the setting, and what to do.
    """
    for name in _SETTINGS:
        if conf.get(f"worker_{name}"):
            raise ConfigError(f"worker_{name} is not for this worker: {_REFUSED[name]}")


def _typed() -> set[str]:
    """Options that stand on this process's command line; Celery has put defaults into the place of all others."""
    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "worker":
        return set()
    names = {"pool_cls": "pool"}
    typed = {
        names.get(name, name) for name in context.params
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }  # fmt: skip
    # "-P custom" takes its pool from there; Celery's worker checks which one it is.
    return typed - ({"pool"} if "CELERY_CUSTOM_WORKER_POOL" in os.environ else set())
