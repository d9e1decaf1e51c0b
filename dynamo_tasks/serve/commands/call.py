"""``dynamo-tasks call``: one request through the queue, its stream on the terminal."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from dynamo_tasks.config import suggest
from dynamo_tasks.config.host.redis_server import resolve_redis_url
from dynamo_tasks.errors import DeadlineExceededError, InvalidRequestError, UnknownEndpointError
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.serve.console.chunks import ChunkPrinter

__all__ = ["call"]


@click.command(short_help="Send a request through the queue, show its stream.")
@click.argument("endpoint")
@click.argument("payload", metavar="[JSON]", default="null")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for all of it.")
def call(endpoint: str, payload: str, timeout: float | None) -> None:
    """Call ENDPOINT (namespace.Component.endpoint) with JSON.

    "-" reads it from stdin; an endpoint without an argument needs none.

    Text is shown as it comes, other values as one JSON document per line.
    """
    address = EndpointId.parse(endpoint)
    request = _parse(sys.stdin.read() if payload == "-" else payload)
    url = resolve_redis_url()
    from dynamo_tasks.runtime.inspect import snapshot

    _check(address, snapshot(url)["instances"])
    asyncio.run(_call(url, address, request, timeout))


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidRequestError(
            f'JSON argument: {error}; e.g. \'{{"prompt": "hi"}}\'', param="JSON"
        ) from error


def _check(address: EndpointId, instances: Sequence[Mapping[str, Any]]) -> None:
    """Refuse an endpoint that its component does not have; say so when nobody serves the component yet."""
    mine = [item for item in instances if (item["namespace"], item["component"]) == address[:2]]
    known = sorted({name for item in mine for name in item["endpoints"]})
    owner = f"{address.namespace}.{address.component}"
    if not mine:
        served = sorted({f"{item['namespace']}.{item['component']}" for item in instances})
        click.echo(
            f"nobody serves {owner} now (served: {', '.join(served) or 'nothing'}); "
            "the request waits in its queue (Ctrl-C gives up)",
            err=True,
        )
    elif address.name not in known:
        raise UnknownEndpointError(f"no endpoint {address}{suggest(address.name, known)}")


async def _call(url: str, address: EndpointId, request: Any, timeout: float | None) -> None:
    try:
        async with asyncio.timeout(timeout):
            await _stream(url, address, request)
    except TimeoutError as error:
        if isinstance(error, DeadlineExceededError):
            raise
        raise DeadlineExceededError(f"{address} was not done within {timeout:g} s (--timeout)") from error


async def _stream(url: str, address: EndpointId, request: Any) -> None:
    from dynamo_tasks.runtime import DistributedRuntime

    async with await DistributedRuntime.create(url) as runtime:
        component = runtime.namespace(address.namespace).component(address.component)
        client = await component.endpoint(address.name).client()
        with ChunkPrinter() as show:
            async for item in client.generate(request):
                show(item.data())
