"""The command ``dynamo-tasks``."""

from __future__ import annotations

import importlib

import click

from dynamo_tasks.serve import commands
from dynamo_tasks.serve.commands.common import OneLineGroup

__all__ = ["cli", "main"]

_COMMANDS = (
    "serve", "call", "status", "tail", "batch", "dead", "keys", "usage", "scale", "sleep", "wake", "purge", "version",
)  # fmt: skip
"""In the order in which a newcomer needs them."""
_WHERE = {"wake": "sleep"}
"""Module in ``serve/commands/``, of a command that has none of its name."""
_EPILOG = """\
\b
First steps:
  dynamo-tasks serve              an OpenAI-compatible server on port 8000
  dynamo-tasks status --watch     what runs, and how busy it is
  dynamo-tasks call dynamo.Worker.generate '{"prompt": "hi"}'
  celery -A dynamo_tasks worker   one more worker, on any machine

They meet at the Redis that DYNAMO_REDIS_URL names, else at the one that `serve` starts.
"""


class _Commands(OneLineGroup):
    """Loads a command when it is typed, or all are listed: `serve` needs no tables, and the others no supervisor."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"{commands.__name__}.{_WHERE.get(cmd_name, cmd_name)}")
        found: click.Command = getattr(module, cmd_name)
        return found


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
    epilog=_EPILOG,
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Celery for LLM inference: durable, resumable token streams on Redis."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="dynamo-tasks")
