"""``dynamo-tasks sleep`` and ``wake``: give the memory of engines back for a while, without ending their processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from dynamo_tasks.config.host.redis_server import resolve_redis_url
from dynamo_tasks.errors import InvalidNameError

if TYPE_CHECKING:
    from dynamo_tasks.runtime import Component

__all__ = ["sleep", "wake"]

_INSTANCE = click.option("--instance", metavar="ID", help="One of its instances; all by default.")


@click.command(
    short_help="Put a component's engines to sleep: their GPU memory is free, their processes stay."
)
@click.argument("component", metavar="NAMESPACE.COMPONENT")
@_INSTANCE
@click.option(
    "--level", type=click.IntRange(1, 2), default=1, show_default=True,
    help="1: weights to the host's memory; 2: weights dropped.",
)  # fmt: skip
@click.option(
    "--drain", type=click.FloatRange(min=0), default=30.0, show_default=True,
    help="Seconds that running requests have; what runs then goes to other instances.",
)  # fmt: skip
def sleep(component: str, instance: str | None, level: int, drain: float) -> None:
    """Put the instances of NAMESPACE.COMPONENT to sleep.

    They leave the registry, so that their model is not listed, finish what runs, and give their memory back.
    """
    _send(component, lambda found: found.sleep(instance_id=instance, level=level, drain=drain))


@click.command(short_help="Wake what sleeps.")
@click.argument("component", metavar="NAMESPACE.COMPONENT")
@_INSTANCE
def wake(component: str, instance: str | None) -> None:
    """Wake the instances of NAMESPACE.COMPONENT."""
    _send(component, lambda found: found.wake_up(instance_id=instance))


def _split(component: str) -> tuple[str, str]:
    namespace, _, name = component.partition(".")
    if not name:
        raise InvalidNameError(f"{component!r}: must be NAMESPACE.COMPONENT, e.g. dynamo.Worker")
    return namespace, name


def _send(component: str, send: Callable[[Component], Awaitable[dict[str, str]]]) -> None:
    from dynamo_tasks.runtime import DistributedRuntime

    namespace, name = _split(component)

    async def give() -> dict[str, str]:
        async with await DistributedRuntime.create(resolve_redis_url()) as runtime:
            return await send(runtime.namespace(namespace).component(name))

    for instance_id, state in asyncio.run(give()).items():
        click.echo(f"{instance_id} {state}")
