"""``celery -A APP worker`` without Celery's other commands: the program of workers that `serve` and tests start.

Celery's command line loads all its commands and their plugins first, a shell and Flower among them: a fourth of what
a worker's start costs. What follows ``python -m dynamo_tasks.queue.worker`` is what follows ``celery``.
"""

from __future__ import annotations

import click
from celery.app.utils import find_app
from celery.bin.base import CLIContext
from celery.bin.worker import worker

__all__ = ["main"]


# By its name an application knows that Celery's command line asks for it.
@click.group("celery")
@click.option("-A", "--app", "name", envvar="APP", required=True)
@click.option("-C", "--no-color", envvar="NO_COLOR", is_flag=True)
@click.option("-q", "--quiet", is_flag=True)
@click.pass_context
def _celery(context: click.Context, name: str, no_color: bool, quiet: bool) -> None:
    app = find_app(name)
    worker.params.extend(app.user_options["worker"])
    context.obj = CLIContext(app=app, no_color=no_color, workdir=None, quiet=quiet)


_celery.add_command(worker)


def main() -> None:
    """Run a worker."""
    _celery(auto_envvar_prefix="CELERY")


if __name__ == "__main__":
    main()
