"""Typed settings out of a service's merged tree."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from dynamo_tasks.config.layers import Origin, Path
from dynamo_tasks.config.records import as_mapping
from dynamo_tasks.config.schema import RESERVED, ServiceSchema, ServiceSettings
from dynamo_tasks.config.tree import Leaf, Node, find, leaves, plain
from dynamo_tasks.config.types import as_gpus, as_number, as_port, as_string, check_type, type_of
from dynamo_tasks.errors import ConfigError

__all__ = ["read_settings"]

CLASS_ATTRIBUTE = "class attribute"
_DEEPEST = 2
"""The deepest sleep of an engine."""
_DEVICE = re.compile(r"[A-Za-z0-9_.-]+")

Check = Callable[[str, Any, Origin], Any]


def _count(key: str, value: Any, origin: Origin) -> Any:
    return as_number(key, value, origin, least=1)


def _workers(key: str, value: Any, origin: Origin) -> Any:
    if value == "cpu_count":  # BentoML's: one for each CPU that the process may use
        return len(os.sched_getaffinity(0))
    return as_number(key, value, origin, least=1)


def _size(key: str, value: Any, origin: Origin) -> Any:
    return as_number(key, value, origin, least=0)


def _seconds(key: str, value: Any, origin: Origin) -> Any:
    return as_number(key, value, origin, least=0, whole=False, above=True)


def _level(key: str, value: Any, origin: Origin) -> Any:
    level = as_number(key, value, origin, least=0)
    if level > _DEEPEST:
        raise ConfigError(f"{origin.where}: {key} must be 0, 1 or 2, not {value!r}")
    return level


def _device(key: str, value: Any, origin: Origin) -> Any:
    name = str(check_type(key, value, str, origin))
    if not _DEVICE.fullmatch(name):
        raise ConfigError(f"{origin.where}: {key} must be letters, digits, '_', '-' or '.', not {name!r}")
    return name


def _flag(key: str, value: Any, origin: Origin) -> Any:
    return check_type(key, value, bool, origin)


def _name(key: str, value: Any, origin: Origin) -> Any:
    return str(check_type(key, value, str, origin))


_CHECKS: dict[Path, Check] = {
    ("dynamo", "namespace"): _name,
    ("dynamo", "name"): _name,
    ("dynamo", "enabled"): _flag,
    ("ServiceArgs", "workers"): _workers,
    ("ServiceArgs", "concurrency"): _count,
    ("ServiceArgs", "system_port"): as_port,
    ("ServiceArgs", "resources", "gpu"): as_gpus,
    ("ServiceArgs", "resources", "gpu_type"): _name,
    ("ServiceArgs", "resources", "cpu"): as_string,
    ("ServiceArgs", "resources", "memory"): as_string,
    ("ServiceArgs", "http", "port"): as_port,
    ("ServiceArgs", "scale", "min"): _size,
    ("ServiceArgs", "scale", "max"): _count,
    ("ServiceArgs", "scale", "idle"): _seconds,
    ("ServiceArgs", "scale", "start"): _seconds,
    ("ServiceArgs", "scale", "share"): _device,
    ("ServiceArgs", "scale", "turn"): _seconds,
    ("ServiceArgs", "scale", "sleep"): _level,
    ("ServiceArgs", "traffic", "timeout"): _seconds,
    ("ServiceArgs", "traffic", "concurrency"): _count,
    ("ServiceArgs", "traffic", "max_queue"): _size,
    ("ServiceArgs", "traffic", "max_stream_bytes"): _count,
    ("ServiceArgs", "traffic", "max_concurrency"): _count,
    ("ServiceArgs", "traffic", "external_queue"): _flag,
}


def read_settings(schema: ServiceSchema, tree: Node) -> tuple[ServiceSettings, dict[str, str]]:
    """Check every value and build the settings.

    Args:
        schema: The service.
        tree: Its merged tree under canonical keys.

    Returns:
        The settings, and dotted key → where its value was written.

    Raises:
        ConfigError: a value of the wrong type or out of range.
    """
    get = _Reader(schema.name, tree).get
    settings = ServiceSettings(
        name=schema.name,
        namespace=get("dynamo", "namespace", default="default"),
        component=get("dynamo", "name", default=schema.name),
        enabled=get("dynamo", "enabled", default=schema.is_component),
        workers=get("ServiceArgs", "workers", default=1),
        concurrency=get("ServiceArgs", "concurrency"),
        resources=_group(schema.name, tree, ("ServiceArgs", "resources")),
        traffic=_group(schema.name, tree, ("ServiceArgs", "traffic")),
        scale=_scale(schema.name, tree),
        planner=_planner(schema.name, tree),
        system_port=get("ServiceArgs", "system_port"),
        http_port=get("ServiceArgs", "http", "port", default=0),
        envs=_envs(schema.name, tree),
        attributes=_attributes(schema, tree),
    )
    origins = {".".join(map(str, path)): leaf.origin.where for path, leaf in leaves(tree)}
    return settings, origins


class _Reader:
    """Reads single values that have a check; ``null`` means the default."""

    def __init__(self, service: str, tree: Node) -> None:
        self._service = service
        self._tree = tree

    def get(self, *path: str, default: Any = None) -> Any:
        item = find(self._tree, *path)
        if item is None or (isinstance(item, Leaf) and item.value is None):
            return default
        return _CHECKS[path](".".join((self._service, *path)), plain(item), _origin(item))


def _origin(item: Node | Leaf) -> Origin:
    """Of a value, or of the highest-written one inside a mapping."""
    if isinstance(item, Leaf):
        return item.origin
    found = [leaf.origin for _path, leaf in leaves(item)]
    return next((Origin(origin.where) for origin in found if origin.where != CLASS_ATTRIBUTE), found[0])


def _group(service: str, tree: Node, path: tuple[str, ...]) -> dict[str, Any]:
    """``resources`` or ``traffic``: the keys that have a value."""
    node = find(tree, *path)
    reader = _Reader(service, tree)
    found = {key: reader.get(*path, key) for key in node} if isinstance(node, dict) else {}
    return {key: value for key, value in found.items() if value is not None}


def _scale(service: str, tree: Node) -> dict[str, Any]:
    """``scale``, whose bounds must have room between them."""
    found = _group(service, tree, ("ServiceArgs", "scale"))
    if "max" in found and found["max"] < found.get("min", 0):
        item = find(tree, "ServiceArgs", "scale", "max")
        assert isinstance(item, Leaf)
        raise ConfigError(
            f"{item.origin.where}: {service}.scale.max must be at least scale.min ({found['min']}), not {found['max']}"
        )
    return found


def _planner(service: str, tree: Node) -> dict[str, Any] | None:
    """Settings under ``planner``; its policy knows what they mean."""
    node = find(tree, "ServiceArgs", "planner")
    if node is None or (isinstance(node, Leaf) and node.value is None):
        return None
    given = plain(node)
    if not isinstance(given, dict):
        raise ConfigError(f"{_origin(node).where}: {service}.planner must be a mapping, not {given!r}")
    return {str(key): value for key, value in given.items()}


def _envs(service: str, tree: Node) -> dict[str, str]:
    node = find(tree, "ServiceArgs", "envs")
    if node is None or (isinstance(node, Leaf) and node.value in (None, {})):
        return {}
    if isinstance(node, Leaf):
        raise ConfigError(
            f"{node.origin.where}: {service}.ServiceArgs.envs must be a mapping of names to text, "
            f"not {node.value!r}"
        )
    envs = {}
    for name, item in node.items():
        key = f"{service}.ServiceArgs.envs.{name}"
        envs[str(name)] = as_string(key, plain(item), _origin(item))
    return envs


def _attributes(schema: ServiceSchema, tree: Node) -> dict[str, Any]:
    values = {}
    for name, item in tree.items():
        if name in RESERVED:
            continue
        default = schema.attributes.get(name)
        values[name] = plain(item) if as_mapping(default) is default else default
        if any(leaf.origin.where != CLASS_ATTRIBUTE for _path, leaf in leaves({name: item})):
            expected = type_of(schema.annotations.get(name), default)
            values[name] = check_type(f"{schema.name}.{name}", plain(item), expected, _origin(item))
    return values
