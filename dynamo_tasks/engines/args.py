"""Arguments of engines: declared as a struct, read with clear errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from dynamo_tasks.engines.text.fields import nearest
from dynamo_tasks.errors import ConfigError

__all__ = ["Count", "EngineArgs", "Milliseconds", "Natural", "read_args"]

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Milliseconds = Annotated[float, Meta(ge=0, le=3_600_000)]


class EngineArgs(msgspec.Struct, kw_only=True, frozen=True):
    """Arguments that every engine knows.

    Attributes:
        model: Name or path of the model; ``None`` = the engine's name.
        served_model_name: Name under which it is served; ``None`` = ``model``.
        max_num_seqs: Sequences that run at the same time.
        max_model_len: Tokens of prompt + answer; ``None`` = as many as the engine can.
    """

    model: str | None = None
    served_model_name: str | None = None
    max_num_seqs: Count = 256
    max_model_len: Count | None = None

    def name(self, engine: str) -> str:
        """The served model name."""
        return self.served_model_name or self.model or engine


_Args = TypeVar("_Args", bound=EngineArgs)


def read_args(kind: type[_Args], engine: str, given: Mapping[str, Any]) -> _Args:
    """Read arguments from configuration.

    Args:
        kind: The struct that declares them.
        engine: Name of the engine, for messages.
        given: Values by name; dashes in names count as underscores.

    Raises:
        ConfigError: an unknown name (names the nearest and all known ones), or a value that is not allowed.
    """
    known = kind.__struct_fields__
    named = {name.replace("-", "_"): value for name, value in given.items()}
    for name in named:
        if name not in known:
            raise ConfigError(
                f"engine {engine!r} has no argument {name!r}; nearest: {nearest(name, known)!r}; "
                f"known: {', '.join(sorted(known))}",
                param=name,
            )
    try:
        return msgspec.convert(named, kind)
    except msgspec.ValidationError as error:
        problem, _, at = str(error).partition(" - at `$.")
        raise ConfigError(
            f"argument {at.rstrip('`')} of engine {engine!r}: {problem}", param=at.rstrip("`")
        ) from error
