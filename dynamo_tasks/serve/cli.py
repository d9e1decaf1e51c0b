"""The command ``dynamo-tasks``."""

from __future__ import annotations

import click

from dynamo_tasks.serve.commands.call import call
from dynamo_tasks.serve.commands.common import OneLineGroup
from dynamo_tasks.serve.commands.serve import serve
from dynamo_tasks.serve.commands.status import status
from dynamo_tasks.serve.commands.tail import tail
from dynamo_tasks.serve.commands.version import version

__all__ = ["cli", "main"]


@click.group(cls=OneLineGroup, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Celery for LLM inference: durable, resumable token streams on Redis."""


for _command in (serve, status, call, tail, version):
    cli.add_command(_command)


def main() -> None:
    """Entry point of the console script."""
    cli()
