"""``serve --dry-run``: the resolved settings with their origins, and the processes."""

from __future__ import annotations

import shlex

import msgspec
from rich.text import Text

from dynamo_tasks.config import Row
from dynamo_tasks.config import mask as masked
from dynamo_tasks.serve.processes.spec import ProcessPlan, ProcessSpec

__all__ = ["render_plan"]


def render_plan(plan: ProcessPlan) -> Text:
    """Draw a plan; secrets are masked.

    Args:
        plan: What would run.

    Returns:
        A block per service with ``key = value   # origin``, then a line per process.
    """
    lines = Text()
    service = ""
    rows = plan.config.rows()
    width = max((len(_setting(row)) for row in rows), default=0)
    for row in rows:
        if row.service != service:
            service = row.service
            lines.append(f"{service}\n", "bold")
        lines.append(f"  {_setting(row).ljust(min(width, 60))}")
        lines.append(f"  # {row.origin}\n", "dim")
    lines.append("processes\n", "bold")
    for spec in plan.processes:
        lines.append(f"  {spec.name}: {_command(spec)}\n")
    lines.rstrip()
    return lines


def _setting(row: Row) -> str:
    value = row.value if isinstance(row.value, str) else msgspec.json.encode(row.value, enc_hook=str).decode()
    return f"{row.key} = {value}"


def _command(spec: ProcessSpec) -> str:
    env = [f"{name}={shlex.quote(str(masked(name, value)))}" for name, value in sorted(spec.env.items())]
    return " ".join([*env, *(_argument(argument) for argument in spec.argv)])


def _argument(argument: str) -> str:
    key, equals, value = argument.partition("=")
    return shlex.quote(f"{key}={masked(key, value)}" if equals else argument)
