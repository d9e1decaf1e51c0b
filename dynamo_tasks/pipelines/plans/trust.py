"""Trust: the rules by which a worker runs the code that a plan names.

A plan is read from Redis, where others than those who may run code on this worker can write. So a name in it becomes
code only where the worker's operator allowed its module, or where the plan as a whole is signed with the key of this
process. Nothing is imported before that is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.pipelines.plans import signed

__all__ = ["ANYTHING", "Trust", "own_modules"]

_PLAIN = "abs bool dict float int len list max min print repr round set sorted str sum tuple"
_HARMLESS = {
    *(f"builtins:{name}" for name in _PLAIN.split()),
    "dynamo_tasks.pipelines.datastream:keep_record",
    "dynamo_tasks.pipelines.datastream:print_record",
}
"""The functions that every worker runs: they reach nothing but their argument and the log."""
_NOT_ITS_OWN = ("celery", "kombu", "dynamo_tasks", "builtins", "__main__")


@dataclass(frozen=True)
class Trust:
    """The code that may be run.

    Attributes:
        modules: Names of modules; each stands for those below it, too.
        signed: Whether everything may: the plan is signed.
    """

    modules: tuple[str, ...] = ()
    signed: bool = False

    def check(self, path: str) -> None:
        """Refuse what this worker may not run.

        Args:
            path: ``module:qualified.name``.

        Raises:
            ConfigError: says how to allow it.
        """
        module = path.partition(":")[0]
        if not (self.signed or path in _HARMLESS or _is_below(module, self.modules)):
            raise ConfigError(
                f"this worker may not run {path}: start it with --operators {module} (or Operators.modules), or have "
                f"the plan signed: {signed.KEY} on both sides"
            )

    def check_code(self) -> None:
        """Refuse code that came by value, unless all of its plan is signed.

        Raises:
            ConfigError: it is not.
        """
        if not self.signed:
            signed.refuse()


ANYTHING = Trust(signed=True)
"""For a plan that came on a way that carries code anyhow, as Ray's does."""


def _is_below(module: str, allowed: Iterable[str]) -> bool:
    return any(module == one or module.startswith(f"{one}.") for one in allowed)


def own_modules(app: Any) -> tuple[str, ...]:
    """The modules that a Celery application itself names: in ``imports`` and ``include``, and those of its tasks.

    A client that can write a plan can call each of these tasks with any argument: so they are allowed by default.
    """
    tasks = {task.__module__ for task in app.tasks.values()}
    named = {*app.conf.imports, *app.conf.include, *tasks}
    return tuple(sorted(one for one in named if not _is_below(one, _NOT_ITS_OWN)))
