"""``dynamo-tasks purge``: erase one namespace."""

from __future__ import annotations

import click

from dynamo_tasks.config.host.redis_server import resolve_redis_url
from dynamo_tasks.protocol.names import check_namespace

__all__ = ["purge"]


@click.command(short_help="Erase one namespace: records, streams, queues, events.")
@click.argument("namespace")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Even where instances are registered in it.")
def purge(namespace: str, yes: bool, force: bool) -> None:
    """Erase everything that NAMESPACE has in Redis. Other namespaces are not touched."""
    check_namespace(namespace)
    url = resolve_redis_url()
    if not yes:
        click.confirm(f"erase all records, streams and queues of namespace {namespace!r}?", abort=True)
    from dynamo_tasks.runtime.inspect import purge as erase

    click.echo(f"namespace {namespace}: {erase(url, namespace, force=force)} keys deleted")
