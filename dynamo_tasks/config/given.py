"""What is given and empty, which is not the same as what is not given.

An option without a value is a mistake: a variable of a script was empty. So is an empty environment variable where,
without its value, more would be let in than its owner meant. Other empty variables count as not set, as compose files
and shells have it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeVar

from dynamo_tasks.errors import ConfigError

__all__ = ["check_variables", "filled", "variable"]

_NEVER_EMPTY = {
    "DYNAMO_API_KEYS": "key",
    "DYNAMO_SIGNING_KEY": "key",
    "DYNAMO_ALLOWED_HOSTS": "name",
    "DYNAMO_REDIS_CA_CERTS": "file",
}
_Value = TypeVar("_Value")


def variable(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """The value of an environment variable; ``None`` where it is not set, or empty.

    Args:
        name: Which.
        environ: ``os.environ`` by default.

    Raises:
        ConfigError: it is set, and empty, and that would let more in than its owner meant.
    """
    value = (os.environ if environ is None else environ).get(name)
    if value is None or value.replace(",", " ").strip():
        return value
    if what := _NEVER_EMPTY.get(name):
        raise ConfigError(f"{name} is given but holds no {what}; give one, or leave it away")
    return None


def check_variables(environ: Mapping[str, str] | None = None) -> None:
    """Refuse variables that are set and must not be empty.

    Raises:
        ConfigError: names the first such one.
    """
    for name in _NEVER_EMPTY:
        variable(name, environ)


def filled(option: str, value: _Value | None) -> _Value | None:
    """The value of an option of a command line.

    Args:
        option: Its name, for the error.
        value: As given; ``None`` = it was not.

    Raises:
        ConfigError: it was given, and is empty.
    """
    if value is not None and not str(value).strip():
        raise ConfigError(f"{option} is given but empty; give a value, or leave it away")
    return value
