"""``dynamo-tasks version``."""

from __future__ import annotations

from importlib.metadata import version as installed

import click

__all__ = ["version"]


@click.command()
def version() -> None:
    """Show the installed version."""
    click.echo(f"dynamo-tasks {installed('dynamo-tasks')}")
