"""``dynamo-tasks tail``: replay and follow the stream of any request."""

from __future__ import annotations

import os

import click

from dynamo_tasks.config.host.redis_server import resolve_redis_url
from dynamo_tasks.protocol.events import EventId
from dynamo_tasks.serve.console.chunks import ChunkPrinter

__all__ = ["tail"]


@click.command(short_help="Replay and follow the stream of any request.")
@click.argument("request_id")
@click.option("--after", metavar="EVENT_ID", help="Begin after this event, e.g. 1763790000000-57.")
def tail(request_id: str, after: str | None) -> None:
    """Show the stream of REQUEST_ID from its start, and follow it to its end."""
    if after is not None:
        EventId.parse(after)
    from dynamo_tasks.queue.client.result import StreamResult
    from dynamo_tasks.runtime.inspect import reach

    url = resolve_redis_url()
    reach(url)
    # The default application reads its server from here when it is made.
    os.environ["DYNAMO_REDIS_URL"] = url
    stream = StreamResult(request_id)
    with ChunkPrinter() as show:
        for chunk in stream.stream(after=after):
            show(chunk)
