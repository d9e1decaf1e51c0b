"""A job of a pipeline in ``status``: its operators with their rates and lag, its services."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["render_job"]

_COLUMNS = ("operator", "tasks", "in", "out", "skipped", "dead", "lag", "records/s")
_STATES = {"RUNNING": "green", "STOPPING": "yellow", "FAILED": "red"}


def render_job(job: Mapping[str, Any]) -> RenderableType:
    """Draw a job.

    Args:
        job: :class:`~dynamo_tasks.pipelines.graph.job.JobStatus` as a mapping.
    """
    state = str(job["state"])
    head = Text.assemble("job ", (str(job["id"]), "bold"), "  ", (state.lower(), _STATES.get(state, "dim")))
    if job.get("error"):
        head.append(f"  {job['error']}", "red")
    if unbegun := job.get("unbegun"):
        head.append(f"  {unbegun} tasks and services wait for a slot", "yellow")
    parts: list[RenderableType] = [head]
    if state in _STATES:  # what has ended well is one line
        parts.append(_operators(job["operators"]))
        parts += [_service(one) for one in job["services"]]
    return Group(*parts)


def _operators(rows: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "operator" else "right", no_wrap=True)
    for row in rows:
        numbers = (row[key] for key in ("parallelism", "records_in", "records_out", "skipped", "dead", "lag"))
        table.add_row(str(row["name"]), *map(str, numbers), f"{row['rate']:.1f}")
    return table


def _service(row: Mapping[str, Any]) -> Text:
    calls = f"{row['requests']} calls, {row['errors']} errors"
    facts = f"{calls}, {1000 * row['average_s']:.1f} ms, {row['queued']} waiting"
    return Text.assemble("service ", str(row["service"]), (f"  {facts}", "dim"))
