"""A process that serves HTTP: ``python -m dynamo_tasks.serve.host --service workers.agg:Frontend``.

Hosts a service that takes nothing from the queue itself (the Frontend, or any other with ``@api`` methods).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

import click

from dynamo_tasks.config.host.given import filled
from dynamo_tasks.errors import DynamoError
from dynamo_tasks.observe.log import choose_format
from dynamo_tasks.runtime.celeryapp import default_app
from dynamo_tasks.runtime.graphs import configured_graph
from dynamo_tasks.runtime.hosting.service_host import ServiceHost
from dynamo_tasks.sdk import Graph
from dynamo_tasks.serve.processes import signals
from dynamo_tasks.services.http import serves_http
from dynamo_tasks.services.http_host import ApiServer
from dynamo_tasks.store.bridge import loop_factory

__all__ = ["main"]

EX_USAGE = 2


@click.command()
@click.option("--service", required=True, help="MODULE:Class of the service.")
@click.option("--config", type=click.Path(dir_okay=False), help="YAML file with the settings.")
@click.option("--set", "settings", multiple=True, metavar="SERVICE.KEY=VALUE")
@click.option("--host", default="127.0.0.1")
@click.option("--port", type=int, default=8000)
@click.option("--reuse-port", is_flag=True, help="Share the port with other processes of the service.")
@click.option("--loglevel", default="warning")
def main(
    service: str,
    config: str | None,
    settings: tuple[str, ...],
    host: str,
    port: int,
    reuse_port: bool,
    loglevel: str,
) -> None:
    """Host a service that serves HTTP."""
    signals.install_handlers()
    logging.basicConfig(
        level=loglevel.upper(), format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        for name, value in (("--service", service), ("--config", config), ("--host", host)):
            filled(name, value)
        choose_format(logging.getLogger())
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(
                _serve(configured_graph(service, config=config, settings=settings), host, port, reuse_port)
            )
    except DynamoError as exc:
        print(f"dynamo-tasks: {exc.message}", file=sys.stderr, flush=True)
        raise SystemExit(EX_USAGE) from None


async def _serve(graph: Graph, host: str, port: int, reuse_port: bool) -> None:
    entry = graph.entry
    if serves_http(entry.inner):
        # The command line of `serve` chose them.
        entry.inner.host, entry.inner.port = host, port
        entry.inner.reuse_port |= reuse_port
    hosted = ServiceHost(default_app(), graph, wait=int(os.environ.get("DYNAMO_RESTARTS") or 0) > 0)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            loop.add_signal_handler(number, stop.set)
    hosted.http = ApiServer(hosted, host, port, reuse_port=reuse_port)
    try:
        await hosted.connect()
        await hosted.start()
        await hosted.enter()
        await stop.wait()
    finally:
        await hosted.stop()


if __name__ == "__main__":
    main()
