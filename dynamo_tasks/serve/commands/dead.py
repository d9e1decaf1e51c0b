"""``dynamo-tasks dead``: requests that lost their worker too often."""

from __future__ import annotations

import json
import time

import click
from rich.table import Table

from dynamo_tasks.config.host.redis_server import resolve_redis_url
from dynamo_tasks.serve.commands.common import OneLineGroup
from dynamo_tasks.serve.console.output import plain_console

__all__ = ["dead"]


@click.group(cls=OneLineGroup, short_help="Requests that lost their worker too often: list, show, retry.")
def dead() -> None:
    """Requests that used up their attempts, because their worker died each time. Kept for 24 hours."""


@dead.command("list", short_help="All of them, the oldest first.")
@click.option("--namespace", help="Only those of one namespace.")
@click.option("--json", "as_json", is_flag=True, help="For scripts: one JSON document.")
def list_(namespace: str | None, as_json: bool) -> None:
    """List dead requests, the oldest first."""
    from dynamo_tasks.runtime.dead_letters import listed

    rows = listed(resolve_redis_url(), namespace)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("no dead requests")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("id", "endpoint", "attempts", "died", "error"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        died = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["died"]))
        table.add_row(row["id"], row["endpoint"], str(row["attempts"]), died, row["error"])
    plain_console().print(table)


@dead.command(short_help="One of them with its payload, as JSON.")
@click.argument("request_id")
def show(request_id: str) -> None:
    """Show REQUEST_ID with its payload, as one JSON document."""
    from dynamo_tasks.runtime.dead_letters import shown

    click.echo(json.dumps(shown(resolve_redis_url(), request_id), indent=2))


@dead.command(short_help="Queue requests again, from their beginning.")
@click.argument("request_ids", metavar="REQUEST_ID…", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that are listed.")
def retry(request_ids: tuple[str, ...], everything: bool) -> None:
    """Queue each REQUEST_ID again under its id: from its beginning, with all attempts, without its deadline."""
    if bool(request_ids) == everything:
        raise click.UsageError("name the requests, or give --all")
    from dynamo_tasks.runtime.dead_letters import listed, retried

    url = resolve_redis_url()
    ids = [row["id"] for row in listed(url)] if everything else list(request_ids)
    retried(url, ids)
    click.echo(f"queued again: {len(ids)}")
