"""The sources of configuration, each read into one :class:`Layer`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from dynamo_tasks.errors import ConfigError

__all__ = ["Layer", "LooseValue", "Origin", "Path", "env_layer", "flags_layer", "load_yaml"]

Path = tuple[Any, ...]
"""Keys from the service down, e.g. ``("Worker", "engine_args", "seed")``."""

_PREFIX = "DYNAMO_"
_SERVICE_CONFIG = "DYNAMO_SERVICE_CONFIG"
_NAMESPACE = "DYNAMO_NAMESPACE"


class Origin(NamedTuple):
    """The place where a value was written.

    Attributes:
        where: As shown to people: ``configs/agg.yaml:12``, ``--Worker.engine``, …
        text: The characters as typed, of flags and environment variables: what an attribute of type
            ``str`` takes, so that ``--Worker.revision=007`` does not become 7.
    """

    where: str
    text: str | None = None


class LooseValue(NamedTuple):
    """A value of an environment variable: its path is to be matched in any case."""

    path: Path
    value: Any
    origin: Origin


@dataclass(frozen=True)
class Layer:
    """One source of configuration.

    Attributes:
        name: How errors and ``--dry-run`` call it.
        data: Service name → its section, as in a YAML file.
        origins: Where single values were written; a path without an entry has its parent's, at last ``name``.
        loose: Values whose names are matched in any case; they go above ``data``.
        namespace: Default namespace of every component, the lowest value of this layer.
    """

    name: str
    data: dict[Any, Any]
    origins: Mapping[Path, Origin] = field(default_factory=dict)
    loose: tuple[LooseValue, ...] = ()
    namespace: str | None = None

    def origin(self, path: Path) -> Origin:
        """Find the place where the value at ``path`` was written."""
        if path in self.origins:
            return self.origins[path]
        for end in range(len(path) - 1, 0, -1):
            if path[:end] in self.origins:
                # the text belongs to the whole value, not to a part of it
                return Origin(self.origins[path[:end]].where)
        return Origin(self.name)


def load_yaml(path: str | os.PathLike[str]) -> Layer:
    """Read a YAML file.

    Raises:
        ConfigError: missing or unreadable file, bad YAML (with its line), a key that stands twice, or a
            top level that is no mapping.
    """
    from dynamo_tasks.config._yaml import parse_document  # PyYAML is slow to import, and not always needed

    name = os.fspath(path)
    try:
        with open(name, encoding="utf-8") as file:
            text = file.read()
    except OSError as exc:
        raise ConfigError(f"configuration file {name}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"configuration file {name}: not UTF-8 text (byte {exc.start})") from exc
    data, lines = parse_document(text, name)
    return Layer(name, data, {key: Origin(f"{name}:{line}") for key, line in lines.items()})


def env_layer(environ: Mapping[str, str]) -> Layer:
    """Read ``DYNAMO_SERVICE_CONFIG``, ``DYNAMO_<SERVICE>__<KEY>[__<SUB>…]`` and ``DYNAMO_NAMESPACE``.

    Args:
        environ: Usually ``os.environ``; names count in any case, other variables are left alone.

    Raises:
        ConfigError: the JSON is bad or no object, or a variable has an empty part.
    """
    data: dict[str, Any] = {}
    namespace: str | None = None
    loose: list[LooseValue] = []
    for name, text in sorted(environ.items()):
        upper = name.upper()
        if upper == _SERVICE_CONFIG:
            data = _service_config(text)
        elif upper == _NAMESPACE:
            namespace = text or None
        elif upper.startswith(_PREFIX) and "__" in name[len(_PREFIX) :]:
            loose.append(_variable(name, text))
    origins = {(key,): Origin(f"environment {_SERVICE_CONFIG}") for key in data}
    return Layer("environment", data, origins, tuple(loose), namespace)


def _service_config(text: str) -> dict[str, Any]:
    try:
        data = msgspec.json.decode(text) if text.strip() else {}
    except msgspec.DecodeError as exc:
        raise ConfigError(f"environment {_SERVICE_CONFIG}: not valid JSON: {exc}") from exc
    if not isinstance(data, dict):
        kind = type(data).__name__
        raise ConfigError(f"environment {_SERVICE_CONFIG}: must be a JSON object of services, not {kind}")
    return data


def _variable(name: str, text: str) -> LooseValue:
    from dynamo_tasks.config._yaml import parse_scalar

    path = tuple(name[len(_PREFIX) :].split("__"))
    if not all(path):
        raise ConfigError(f"environment {name}: an empty part; expected DYNAMO_<SERVICE>__<KEY>[__<SUB>]")
    return LooseValue(path, parse_scalar(text), Origin(f"environment {name}", text))


def flags_layer(args: Sequence[str]) -> Layer:
    """Read ``--Service.key=value`` flags and ``Service.key=value`` settings; later ones win.

    Args:
        args: Each ``[--]Service.key[.sub…]=value``; with dashes also as two, ``--Service.key value``.
            Values are YAML scalars, lists ``[a, b]`` or mappings ``{a: 1}``.

    Raises:
        ConfigError: which argument, and the form that is expected.
    """
    from dynamo_tasks.config._yaml import parse_scalar

    data: dict[str, Any] = {}
    origins: dict[Path, Origin] = {}
    for shown, path, text in _flags(args):
        _put(data, path, parse_scalar(text), shown)
        for old in [known for known in origins if known[: len(path)] == path]:
            del origins[old]
        origins[path] = Origin(shown, text)
    return Layer("command line", data, origins)


def _flags(args: Sequence[str]) -> Iterator[tuple[str, Path, str]]:
    """Yield each flag as shown in messages, its path and its value's text."""
    rest = iter(args)
    for arg in rest:
        key, equals, text = arg.removeprefix("--").partition("=")
        if not equals:
            value = next(rest, None) if arg.startswith("--") else None
            if value is None or value.startswith("--"):
                raise ConfigError(f"{arg}: has no value; expected [--]Service.key=value")
            text = value
        path = tuple(key.split("."))
        if len(path) < 2 or not all(path):
            raise ConfigError(f"{arg}: names no Service.key; expected [--]Service.key=value")
        # without the value: it may be a secret, and this is shown by --dry-run
        yield ("" if arg.startswith("--") else "--set ") + arg.partition("=")[0], path, text


def _put(data: dict[str, Any], path: Path, value: Any, shown: str) -> None:
    for key in path[:-1]:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{shown}: an earlier flag made {key!r} a single value")
    data[path[-1]] = value
