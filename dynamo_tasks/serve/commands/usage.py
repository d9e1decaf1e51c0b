"""``dynamo-tasks usage``: what API keys have used."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.names import check_namespace
from dynamo_tasks.serve.commands.common import with_lanes
from dynamo_tasks.serve.commands.keys import namespace_option
from dynamo_tasks.serve.console.output import plain_console

if TYPE_CHECKING:
    from dynamo_tasks.frontend.access.usage_report import UsageQuery
    from dynamo_tasks.store.redis.server import Store

__all__ = ["usage"]

_MOST = 100_000
_SHOWN = (
    "date",
    "key_id",
    "key_name",
    "tenant",
    "model",
    "requests",
    "errors",
    "input_tokens",
    "output_tokens",
    "cost",
)


@click.command(short_help="What API keys have used, by day and model.")
@click.option(
    "--days", type=click.IntRange(1, 400), default=30, show_default=True, help="Up to today, of UTC."
)
@click.option("--key", default="", help="Id of a key.")
@click.option("--tenant", default="", help="Of one tenant.")
@click.option("--model", default="", help="Of one model.")
@click.option("--csv", "as_csv", is_flag=True, help="For spreadsheets.")
@click.option("--json", "as_json", is_flag=True, help="For scripts: one JSON document.")
@namespace_option
def usage(days: int, key: str, tenant: str, model: str, as_csv: bool, as_json: bool, namespace: str) -> None:
    """Show what API keys have used, by day, key and model."""
    from dynamo_tasks.frontend.access import usage_report

    if as_csv and as_json:
        raise ConfigError("--csv or --json, not both")
    check_namespace(namespace)
    end = datetime.now(UTC).date()
    query = usage_report.UsageQuery(
        end - timedelta(days=days - 1), end, key=key, tenant=tenant, model=model, limit=_MOST
    )
    rows = with_lanes(lambda lanes: _rows(lanes, namespace, query))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif as_csv:
        click.echo(usage_report.as_csv(rows), nl=False)
    else:
        _print(rows)


async def _rows(lanes: list[Store], namespace: str, query: UsageQuery) -> list[dict[str, Any]]:
    from dynamo_tasks.frontend.access.admission import ApiKeys
    from dynamo_tasks.frontend.access.usage_report import UsageReport
    from dynamo_tasks.store.accounts.api_keys import StoredKeys
    from dynamo_tasks.store.accounts.usage import Usage

    first, *further = lanes
    report = UsageReport(Usage(first, [namespace], further), StoredKeys(first, namespace), ApiKeys(()))
    rows, more = await report.page(query)
    if more:
        raise ConfigError(f"there are more than {_MOST} rows; ask for fewer --days, or one --key")
    return rows


def _print(rows: list[dict[str, Any]]) -> None:
    if not rows:
        click.echo("no usage")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in _SHOWN:
        table.add_column(column.replace("_", " "), no_wrap=True)
    for row in rows:
        table.add_row(*(f"{row[name]:.6g}" if name == "cost" else str(row[name]) for name in _SHOWN))
    plain_console().print(table)
