"""Parts of ``dynamo-tasks`` commands: their connection to Redis; when something is wrong, one line and exit code 2."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dynamo_tasks.config.host.redis_lanes import split_lanes
from dynamo_tasks.config.host.redis_server import key_prefix, resolve_redis_url
from dynamo_tasks.errors import DynamoError

if TYPE_CHECKING:
    from dynamo_tasks.store.redis.server import Store

__all__ = ["CliError", "OneLineGroup", "with_lanes", "with_store"]

T = TypeVar("T")
_INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""


class CliError(click.ClickException):
    """An error that the user can mend; shown as ``Error: …`` in one line."""

    exit_code = 2

    @classmethod
    def of(cls, error: DynamoError | OSError | click.UsageError) -> CliError:
        """Make an error with the same message on one line."""
        if isinstance(error, click.UsageError):
            asked = error.ctx.command_path if error.ctx else "dynamo-tasks"
            return cls(f"{error.format_message().rstrip('.')} (see {asked} --help)")
        return cls(" ".join(str(error).split()))


class OneLineGroup(click.Group):
    """A group of commands whose expected errors are one line instead of a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List them in the order in which a newcomer needs them, not of the alphabet."""
        return list(self.commands)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the command line.

        Raises:
            CliError: it makes no sense.
        """
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise CliError.of(error) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Raises:
            CliError: for a command line that makes no sense, for each error of our own tree, and of the
                operating system (no space, no permission).
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output has left, e.g. `| head`: click ends quietly.
            raise
        except (DynamoError, OSError, click.UsageError) as error:
            raise CliError.of(error) from error
        except KeyboardInterrupt:
            # Not an error: nothing is said, but a script sees it.
            ctx.exit(_INTERRUPTED)


def with_store(use: Callable[[Store], Awaitable[T]]) -> T:
    """Use a connection to the Redis of this command: to the first lane, where there are several."""
    return _connected(split_lanes(resolve_redis_url())[0], lambda lanes: use(lanes[0]))


def with_lanes(use: Callable[[list[Store]], Awaitable[T]]) -> T:
    """Use connections to all lanes of this command's Redis."""
    return _connected(resolve_redis_url(), use)


def _connected(urls: str, use: Callable[[list[Store]], Awaitable[T]]) -> T:
    from dynamo_tasks.store.lanes.lane import connected

    async def work() -> T:
        async with connected(urls, key_prefix()) as lanes:
            return await use(lanes)

    return asyncio.run(work())
