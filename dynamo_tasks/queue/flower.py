"""Flower shows payloads and can stop workers: with our application it does not start open to everybody."""

from __future__ import annotations

import os
from typing import Any

import click
from celery import signals

__all__ = ["guard_flower"]

OPEN_VARIABLE = "FLOWER_UNAUTHENTICATED_API"
"""Flower's own switch, with which its API needs no login: an owner who sets it wants it open."""


EX_USAGE = 2


def guard_flower(app: Any) -> None:
    """Make ``celery -A <app> flower`` refuse to start without a login.

    Args:
        app: The Celery application. Flower asks it for its modules before it listens.
    """
    signals.import_modules.connect(_check, sender=app, weak=False)


def _check(**_: Any) -> None:
    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "flower":
        return
    from tornado.options import options  # parsed by now, from the command line, the file and the environment

    if not (options.basic_auth or options.auth or _opened()):
        click.echo(
            "Error: Flower shows payloads and can stop workers, so it needs a login: --basic-auth=USER:PASSWORD "
            f"(or FLOWER_BASIC_AUTH, or --auth for OAuth); {OPEN_VARIABLE}=true opens it to everybody",
            err=True,
        )
        # Celery's signals log an Exception with its traceback and go on.
        raise SystemExit(EX_USAGE)


def _opened() -> bool:
    return os.environ.get(OPEN_VARIABLE, "").lower() in ("1", "true", "yes", "on")
