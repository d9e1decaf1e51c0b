"""API keys as people see them on a terminal."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.table import Table

from dynamo_tasks.protocol.http.limits import KeyLimits
from dynamo_tasks.serve.console.output import plain_console

__all__ = ["render_key", "render_keys"]

_FREE = {name: getattr(KeyLimits(), name) for name in KeyLimits.__struct_fields__}


def render_keys(rows: list[dict[str, Any]]) -> None:
    """Print a line for each key."""
    if not rows:
        click.echo("no keys; `dynamo-tasks keys create` makes one")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("id", "name", "key", "state", "tenant", "expires", "limits"):
        table.add_column(column, no_wrap=column != "limits")
    for row in rows:
        table.add_row(
            row["id"], row["name"], row["prefix"] + "…", row["state"], row["tenant"], _moment(row["expires"]),
            _limits(row["limits"]),
        )  # fmt: skip
    plain_console().print(table)


def render_key(row: dict[str, Any]) -> None:
    """Print all of one key."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in row.items():
        if name == "limits":
            text = _limits(value)
        elif name in ("created", "expires", "revoked", "old_secret_until"):
            text = _moment(value)
        else:
            text = str(value)
        table.add_row(name.replace("_", " "), text)
    plain_console().print(table)


def _moment(value: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(value)) if value else "-"


def _limits(given: dict[str, Any]) -> str:
    said = [
        f"{name}={','.join(value) if isinstance(value, list | tuple) else value}"
        for name, value in given.items()
        if name != "tenant" and value != _FREE[name] and value != []
    ]
    return " ".join(said) or "-"
