"""The command ``dynamo-tasks``."""

from __future__ import annotations

import click

from dynamo_tasks.serve.commands.batch import batch
from dynamo_tasks.serve.commands.call import call
from dynamo_tasks.serve.commands.common import OneLineGroup
from dynamo_tasks.serve.commands.dead import dead
from dynamo_tasks.serve.commands.keys import keys
from dynamo_tasks.serve.commands.purge import purge
from dynamo_tasks.serve.commands.scale import scale
from dynamo_tasks.serve.commands.serve import serve
from dynamo_tasks.serve.commands.sleep import sleep, wake
from dynamo_tasks.serve.commands.status import status
from dynamo_tasks.serve.commands.tail import tail
from dynamo_tasks.serve.commands.usage import usage
from dynamo_tasks.serve.commands.version import version

__all__ = ["cli", "main"]

_EPILOG = """\
\b
First steps:
  dynamo-tasks serve              an OpenAI-compatible server on port 8000
  dynamo-tasks status --watch     what runs, and how busy it is
  dynamo-tasks call dynamo.Worker.generate '{"prompt": "hi"}'
  celery -A dynamo_tasks worker   one more worker, on any machine

They meet at the Redis that DYNAMO_REDIS_URL names, else at the one that `serve` starts.
"""


@click.group(
    cls=OneLineGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
    epilog=_EPILOG,
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Celery for LLM inference: durable, resumable token streams on Redis."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _command in (serve, call, status, tail, batch, dead, keys, usage, scale, sleep, wake, purge, version):
    cli.add_command(_command)


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="dynamo-tasks")
