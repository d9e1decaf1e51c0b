"""``scale`` as people read it: one line per component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["render_scales"]

_COLUMNS = ("component", "wanted", "ready", "starting", "draining", "asleep", "bounds", "by")
_NUMBERS = {"wanted", "ready", "starting", "draining", "asleep"}


def render_scales(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Draw rows of :func:`dynamo_tasks.runtime.scales.scale_rows`."""
    if not rows:
        return Text("nothing is deployed: no `dynamo-tasks serve` runs", "dim")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", no_wrap=True)
    for row in rows:
        short = row["ready"] < row["wanted"]
        table.add_row(
            str(row["component"]), str(row["wanted"]), Text(str(row["ready"]), "yellow" if short else ""),
            str(row["starting"]), str(row["draining"]), str(row["asleep"]), bounds(row), str(row["by"]),
        )  # fmt: skip
    notes = [Text(f"{row['component']}: {row['note']}", "yellow") for row in rows if row["note"]]
    return Group(table, *notes)


def bounds(row: Mapping[str, Any]) -> str:
    """``0 to 8, idle 300 s``; ``-`` where it has none; with ``turns of 60 s on gpu0`` where it shares a device."""
    if row["min"] is None:
        return "-"
    most = f" to {row['max']}" if row["max"] else " or more"
    idle = f", idle {row['idle']:g} s" if row["idle"] else ""
    turns = f", turns of {row['turn']:g} s on {row['share']}" if row["share"] else ""
    return f"{row['min']}{most}{idle}{turns}{', planner' if row['planner'] else ''}"
