"""The program of a worker that `serve` starts: ``celery -A dynamo_tasks --quiet worker``, and nothing else of Celery's.

Celery's own command line first loads all its commands and plugins, a shell and Flower among them: a fourth of what a
worker's start costs.
"""

from __future__ import annotations

import os
import sys

import click
from celery.bin.base import CLIContext
from celery.bin.worker import worker

from dynamo_tasks.wiring import default_app

__all__ = ["main"]


# By its name the application knows that it is Celery's command line which asks for it.
@click.group("celery")
@click.pass_context
def _celery(context: click.Context) -> None:
    app = default_app()
    worker.params.extend(app.user_options["worker"])
    context.obj = CLIContext(app=app, no_color=bool(os.environ.get("NO_COLOR")), workdir=None, quiet=True)


_celery.add_command(worker)


def main() -> None:
    """Run a worker of the default application; the arguments are those of ``celery worker``."""
    _celery(["worker", *sys.argv[1:]], auto_envvar_prefix="CELERY")


if __name__ == "__main__":
    main()
