"""``dynamo-tasks status``: what runs, and how busy it is."""

from __future__ import annotations

import json
import time
from typing import Any

import click
from rich.console import Console
from rich.live import Live

from dynamo_tasks.config.host.redis_server import resolve_redis_url
from dynamo_tasks.serve.console.output import plain_console
from dynamo_tasks.serve.console.status_view import render_status

__all__ = ["snapshot", "status"]


@click.command(short_help="Show what runs, and how busy it is.")
@click.argument("namespace", required=False)
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds; --watch."
)
@click.option("--json", "as_json", is_flag=True, help="For scripts: one JSON document.")
def status(namespace: str | None, watch: bool, interval: float, as_json: bool) -> None:
    """Show namespaces (or NAMESPACE alone), components, endpoints and instances with their load."""
    if watch and as_json:
        raise click.UsageError("--watch and --json exclude each other")
    url = resolve_redis_url()
    if as_json:
        click.echo(json.dumps(snapshot(url, namespace), indent=2, default=str))
    elif watch:
        _watch(plain_console(), url, interval, namespace)
    else:
        plain_console().print(render_status(snapshot(url, namespace)))


def snapshot(url: str, namespace: str | None = None) -> dict[str, Any]:
    """Take a snapshot of what runs at a Redis URL (in one namespace), in the shape of ``status --json``.

    Raises:
        ServerUnavailableError: Redis cannot be reached.
    """
    # At the moment of use: `dynamo-tasks --help` and `serve` itself must not wait for Celery.
    from dynamo_tasks.pipelines.inspect import jobs_of
    from dynamo_tasks.runtime import inspect

    found = inspect.snapshot(url, namespace)
    return {**found, "jobs": jobs_of(url, found["namespaces"])}


def _watch(console: Console, url: str, interval: float, namespace: str | None) -> None:
    try:
        if not console.is_terminal:
            while True:
                console.print(render_status(snapshot(url, namespace)))
                time.sleep(interval)
        with Live(render_status(snapshot(url, namespace)), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                live.update(render_status(snapshot(url, namespace)), refresh=True)
    except KeyboardInterrupt:
        return
