"""How a command of ``dynamo-tasks`` ends when something is wrong: one line on stderr and exit code 2."""

from __future__ import annotations

from typing import Any

import click

from dynamo_tasks.errors import DynamoError

__all__ = ["CliError", "OneLineGroup"]


class CliError(click.ClickException):
    """An error that the user can mend; shown as ``Error: …`` in one line."""

    exit_code = 2

    @classmethod
    def of(cls, error: DynamoError | OSError) -> CliError:
        """The same message on one line."""
        return cls(" ".join(str(error).split()))


class OneLineGroup(click.Group):
    """A group of commands whose expected errors are one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Raises:
            CliError: for each error of our own tree, and of the operating system (no space, no permission).
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output has left, e.g. `| head`: click ends quietly.
            raise
        except (DynamoError, OSError) as error:
            raise CliError.of(error) from error
